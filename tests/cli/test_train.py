import json
from pathlib import Path

from typer.testing import CliRunner

from open_mythos.cli.main import app
from open_mythos.cli.opening import open_checkpoint
from open_mythos.config.overrides import from_plain
from open_mythos.data.chat import encode_prompt, end_of_turn
from open_mythos.train.recipe import Recipe


SMALL = ["model.dim=16", "model.expert_dim=8", "data.batch_size=2", "steps=2", "eval_every=0"]


def test_a_run_leaves_its_recipe_metrics_and_checkpoint(text_run: Path) -> None:
    assert (text_run / "recipe.yaml").is_file()
    lines = [json.loads(x) for x in (text_run / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if x["kind"] == "step"] == [1, 2]
    assert any("validation/loss" in x["values"] for x in lines if x["kind"] == "eval")
    assert (text_run / "checkpoints" / "step_0000002" / "model.safetensors").is_file()


def test_a_chat_run_leaves_what_a_chat_needs(tmp_path: Path) -> None:
    chats = Path(__file__).parents[1] / "data" / "conversations.jsonl"
    words = ["train", "sft", *SMALL, "data.seq_len=96", f"data.corpus={chats}"]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    opened = open_checkpoint(tmp_path)
    asked = encode_prompt(opened.tokenizer, [{"role": "user", "content": "hi"}])
    assert asked == [0xF9, *b"hi", 256, 0xFA]
    assert end_of_turn(opened.tokenizer) == 256
    result = CliRunner().invoke(app, ["sweep", str(tmp_path), "--loops", "1,2"])
    assert result.exit_code == 0, result.output
    assert "perplexity" in result.stdout


def test_print_config_prints_the_resolved_recipe_and_trains_nothing(tmp_path: Path) -> None:
    import yaml

    result = CliRunner().invoke(
        app,
        ["train", "cpu-tiny", "model.dim=32", "optim.lr=1e-4", "--print-config"],
    )
    assert result.exit_code == 0
    recipe = from_plain(Recipe, yaml.safe_load(result.stdout))
    assert recipe.model.dim == 32
    assert recipe.optim.lr == 1e-4
    assert not list(tmp_path.iterdir())


def test_an_unknown_setting_is_refused_with_the_closest_known_one() -> None:
    result = CliRunner().invoke(app, ["train", "cpu-tiny", "model.dimm=32"])
    assert result.exit_code == 2
    assert "dimm" in result.stderr
    assert "did you mean" in result.stderr
    assert "model.dim" in result.stderr


def test_an_existing_run_is_neither_overwritten_nor_forgotten(text_run: Path) -> None:
    before = (text_run / "metrics.jsonl").read_bytes()
    result = CliRunner().invoke(app, ["train", "cpu-tiny", "--out", str(text_run)])
    assert result.exit_code == 2
    assert "--resume" in result.stderr
    assert "--fresh" in result.stderr
    assert (text_run / "metrics.jsonl").read_bytes() == before
