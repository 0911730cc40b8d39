"""inspect: the budget's figures for anything that names a network, and what runs here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from open_mythos.cli.inspect import inspect_config, resolve, scaled, show
from open_mythos.cli.main import app
from open_mythos.config.budget import cache_bytes_per_token, flops_per_token, parameters
from open_mythos.config.mythos import MythosConfig
from open_mythos.config.overrides import to_yaml
from open_mythos.config.presets import PRESETS, preset
from open_mythos.errors import CheckpointError, ConfigError, InputError


def call(*words: str) -> Any:
    return CliRunner().invoke(app, ["inspect", *words], env={"COLUMNS": "120"})


def as_json(*words: str) -> dict[str, Any]:
    result = call(*words, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("name", PRESETS)
def test_json_holds_the_budgets_figures(name: str) -> None:
    found, cfg = as_json(name), preset(name)
    assert found["total_parameters"] == parameters(cfg).total
    assert sum(found["parameters"].values()) == found["total_parameters"]
    assert found["active_parameters"] == parameters(cfg).active
    assert found["flops_per_token"] == flops_per_token(cfg).total
    assert found["cache_bytes_per_token"][cfg.attn_type] == cache_bytes_per_token(cfg)
    assert found["cache_bytes"][cfg.attn_type] == cache_bytes_per_token(cfg) * cfg.max_seq_len


def test_overrides_loops_and_context_are_heard() -> None:
    cfg = preset("mythos_1b")
    cfg.n_experts = 8
    found = as_json("mythos_1b", "n_experts=8", "--loops", "3", "--context", "100")
    assert found["total_parameters"] == parameters(cfg).total
    assert found["flops_per_token"] == flops_per_token(cfg, 3, 100).total
    assert found["cache_bytes"]["mla"] == 100 * cache_bytes_per_token(cfg, 3)


def test_a_yaml_file_and_a_runs_model_part_are_read(tmp_path: Path) -> None:
    cfg = MythosConfig(dim=128, n_heads=4)
    alone, run = tmp_path / "model.yaml", tmp_path / "run.yml"
    alone.write_text(to_yaml(cfg))
    run.write_text("steps: 5\nmodel: {dim: 128, n_heads: 4}\n")
    assert resolve(str(alone)) == (str(alone), cfg)
    assert resolve(str(run)) == (str(run), cfg)


def test_a_checkpoint_folder_is_read_by_its_config_alone(tmp_path: Path) -> None:
    cfg = MythosConfig(dim=128, n_heads=4)
    document = {"schema_version": 1, "architecture": "open_mythos", "config": cfg.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(document))
    assert resolve(str(tmp_path)) == (str(tmp_path), cfg)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match=r"config\.json"):
        resolve(str(tmp_path))


def test_what_names_no_network_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    for target in ("mythos_1x", str(tmp_path), str(tmp_path / "none.yaml")):
        with pytest.raises(ConfigError, match="no preset, no YAML file and no folder"):
            resolve(target)
    result = call("mythos_1x")
    assert result.exit_code == 2
    assert "did you mean 'mythos_1" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["dim=3"], ["n_head=2"], ["--loops", "0"], ["--context", "0"]])
def test_a_bad_setting_is_one_line_and_exit_code_2(words: list[str]) -> None:
    result = call("mythos_1b", *words)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


def test_the_table_shows_every_part_both_caches_and_the_warnings() -> None:
    result = call("mythos_1b", "--loops", "17")
    assert result.exit_code == 0
    for part in parameters(preset("mythos_1b")).parts():
        assert part.replace("_", " ") in result.stdout
    assert f"{parameters(preset('mythos_1b')).total:,}" in result.stdout
    assert "mla (this model)" in result.stdout
    assert "bfloat16, gqa" in result.stdout
    assert "17 loops exceed max_loop_iters (16)" in result.stdout


def test_an_attention_that_does_not_fit_is_left_blank() -> None:
    found = inspect_config("odd", MythosConfig(n_kv_heads=3))
    assert found.cache_bytes_per_token["gqa"] is found.cache_bytes["gqa"] is None
    console = Console(record=True, width=120, quiet=False)
    with console.capture() as shown:
        show(found, console)
    assert "│ -" in shown.get().replace("  ", " ").replace("  ", " ") or " - " in shown.get()


def test_depth_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="n_loops is 0"):
        inspect_config("x", MythosConfig(), n_loops=0)


def test_a_trillion_parameters_are_counted_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['open-mythos', 'inspect', 'mythos_1t']\n"
        "from open_mythos.cli.main import app\n"
        "try: app()\n"
        "except SystemExit as done: assert not done.code\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("value", "unit", "base", "text"),
    [
        (0, "B", 1024, "0 B"),
        (1023, "B", 1024, "1.02e+03 B"),
        (11520, "B", 1024, "11.2 KiB"),
        (5.49e9, "", 1000, "5.49 G"),
        (1.8e13, "", 1000, "18 T"),
    ],
)
def test_large_numbers_are_readable(value: float, unit: str, base: int, text: str) -> None:
    assert scaled(value, unit, base) == text


def test_a_run_folder_is_inspected_by_its_newest_checkpoint(text_run: Path) -> None:
    run = json.loads(CliRunner().invoke(app, ["inspect", str(text_run), "--json"]).stdout)
    newest = text_run / "checkpoints" / "step_0000002"
    direct = json.loads(CliRunner().invoke(app, ["inspect", str(newest), "--json"]).stdout)
    assert {**run, "name": ""} == {**direct, "name": ""}


# -- backends --------------------------------------------------------------------------------------


def test_backends_need_no_model_and_show_every_way_with_its_reason() -> None:
    wide = {"COLUMNS": "300"}  # no reason is broken into lines
    result = CliRunner().invoke(app, ["inspect", "--backends"], env=wide)
    assert result.exit_code == 0, result.output
    found = as_json("--backends")["backends"]
    assert found["versions"]["torch"] == torch.__version__ in result.stdout
    assert found["device"] in result.stdout
    for choice in found["choices"]:
        assert choice["op"] in result.stdout
        assert set(choice["picked"].values()) <= {way["name"] for way in choice["ways"]}
        for way in choice["ways"]:
            assert way["name"] in result.stdout
            assert way["lacks"] is None or f"no: {way['lacks']}" in result.stdout
    assert "auto" in result.stdout


def test_backends_of_a_model_are_those_of_its_shapes_and_stand_behind_its_figures() -> None:
    words = ["mythos_1b", "attn_type=gqa", "n_heads=2", "n_kv_heads=2", "--loops", "3"]
    plain, odd = as_json(*words, "--backends"), as_json(*words, "dim=2052", "--backends")
    alone = as_json(*words)
    assert {name: plain[name] for name in alone} == alone
    experts = [
        next(c for c in found["backends"]["choices"] if c["op"].startswith("experts, 32"))
        for found in (plain, odd)
    ]
    assert [{w["name"]: w["lacks"] for w in e["ways"]}["grouped"] for e in experts] == [
        None,
        "dim and expert_dim are no multiples of 8",
    ]
    assert "mythos_1b: 3 loops" in call(*words, "--backends").stdout


@pytest.mark.parametrize("words", [["mythos_1x"], ["mythos_1b", "dim=3"], []])
def test_a_mistake_beside_backends_is_one_too(words: list[str]) -> None:
    assert call(*words, *(["--backends"] if words else [])).exit_code == 2
