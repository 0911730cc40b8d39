"""What the command writes and says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from open_mythos.cli.retrofit import run, span
from open_mythos.model.mythos import OpenMythos
from open_mythos.retrofit.surgery import Plan
from tests.retrofit.conftest import pretrained as pretrained


def test_it_tells_what_went_where(
    pretrained: Callable[..., tuple[Any, Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, folder = pretrained("llama")
    run(source=folder, plan=Plan(prelude=1, core=2, coda=1, max_seq_len=32), out=tmp_path / "to")
    said = " ".join(capsys.readouterr().err.split())
    assert "prelude 0-0, loop 2-3, coda 4-4" in said
    assert "one loop is the source without layers 1" in said
    assert "no tokenizer" in said
    cfg = OpenMythos.from_pretrained(tmp_path / "to").cfg
    assert (cfg.core_layers, cfg.max_loop_iters, cfg.max_seq_len) == (2, 4, 32)


def test_of_folded_layers_it_tells_how_many_loops_are_the_source(
    pretrained: Callable[..., tuple[Any, Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, folder = pretrained("llama")
    plan = Plan(prelude=1, core=1, coda=1, loops=3, start="none", lora_rank=2)
    run(source=folder, plan=plan, out=tmp_path / "to")
    said = " ".join(capsys.readouterr().err.split())
    assert "prelude 0-0, loop 1-3, coda 4-4" in said
    assert (
        "3 loops stand for the source: 1 layers of the core (average), corrected by rank 2" in said
    )
    assert OpenMythos.from_pretrained(tmp_path / "to").cfg.core_lora_rank == 2


def test_parts_without_layers() -> None:
    assert span(range(3, 3)) == "none"
