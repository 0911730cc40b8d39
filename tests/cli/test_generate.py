from pathlib import Path

from typer.testing import CliRunner

from open_mythos.cli.main import app
from open_mythos.cli.opening import open_checkpoint


def write(run: Path, *words: str) -> str:
    result = CliRunner().invoke(app, ["generate", str(run), *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_prompt_is_continued_and_a_seed_repeats_it(text_run: Path) -> None:
    words = ("--prompt", "KING:\n", "--max-new-tokens", "12", "--seed", "3")
    first = write(text_run, *words)
    assert first.startswith("KING:\n")
    assert len(first) > len("KING:\n\n")
    assert write(text_run, *words) == first


def test_greedy_text_is_what_the_library_generates(text_run: Path) -> None:
    import torch

    opened = open_checkpoint(text_run)
    ids = torch.tensor([opened.tokenizer.encode("KING:\n")])
    eos = opened.tokenizer.eos_id
    expected = opened.model.generate(ids, 8, 3, temperature=0.0, eos_token_id=eos)[0].tolist()
    expected = [i for i in expected if i != eos]
    shown = write(
        text_run, "--prompt", "KING:\n", "--max-new-tokens", "8", "--temperature", "0",
        "--loops", "3",
    )  # fmt: skip
    assert shown == opened.tokenizer.decode(expected) + "\n"


def test_a_run_without_tokenizer_is_refused_in_one_line(task_run: Path) -> None:
    result = CliRunner().invoke(app, ["generate", str(task_run), "--prompt", "x"])
    assert result.exit_code == 2
    assert "no tokenizer" in result.stderr
