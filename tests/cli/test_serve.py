"""From a folder to a service: its name, its bounds, and no unlocked door."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from open_mythos.errors import CheckpointError, ConfigError, InputError


pytest.importorskip("fastapi")

from open_mythos.cli import serve


def test_settings_and_names_reach_the_service(
    text_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    monkeypatch.setattr(serve, "serve", found.append)
    keys = tmp_path / "keys"
    keys.write_text("ann a-key-of-ann-that-is-long\n")
    told = ["serve.host=0.0.0.0", "serve.in_flight=7", "engine.rows=3", "engine.blocks=32"]
    serve.run(text_run, None, keys, "cpu", told)
    serve.run(text_run, "other", keys, "cpu", told)
    first, second = found
    assert (first.served.name, second.served.name) == (text_run.name, "other")
    assert first.settings.in_flight == 7
    assert first.front.engine.settings.rows == 3
    assert first.keys.name("Bearer a-key-of-ann-that-is-long") == "ann"


def test_wrong_settings_come_before_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPEN_MYTHOS_API_KEYS", raising=False)
    for told in (["serve.host=0.0.0.0"], ["serve.in_flight=0"], ["serve.nothing=1"]):
        with pytest.raises(ConfigError, match=r"serve\."):
            serve.run(tmp_path / "none", None, None, "cpu", told)


def test_replicas_are_told_all_but_who_may_come_in(
    text_run: Path, task_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Any] = []
    doors: list[Any] = []

    @contextmanager
    def started(plan: Any, settings: Any) -> Iterator[str]:
        plans.append((plan, settings))
        yield "replicas"

    monkeypatch.setattr(serve, "ray_replicas", started)
    monkeypatch.setattr(serve, "serve", doors.append)
    keys = tmp_path / "keys"
    keys.write_text("ann a-key-of-ann-that-is-long\n")
    told = ["serve.seconds=7", "engine.rows=3", "replicas.count=2", "replicas.cpus=4"]
    serve.run(text_run, None, keys, "cpu", told)
    [(plan, settings)], [door] = plans, doors
    assert (Path(plan.folder) / "config.json").is_file()
    assert Path(plan.folder).is_absolute()
    assert (plan.name, plan.device, plan.sizes.rows) == (text_run.name, "cpu", 3)
    assert plan.settings == door.settings
    assert (settings.count, settings.cpus, door.settings.seconds) == (2, 4.0, 7.0)
    assert (door.replicas, bool(door.keys)) == ("replicas", True)
    for folder, error in ((task_run, InputError), (tmp_path / "none", CheckpointError)):
        with pytest.raises(error):
            serve.run(folder, None, None, "cpu", told)
    assert len(plans) == 1
