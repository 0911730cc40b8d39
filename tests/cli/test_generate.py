import json
import re
from pathlib import Path

import pytest
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


def refused(run: Path, *words: str) -> str:
    result = CliRunner().invoke(app, ["generate", str(run), "--prompt", "x", *words])
    assert result.exit_code == 2
    return result.stderr


def test_text_ends_before_a_stop_string(text_run: Path) -> None:
    words = ("--prompt", "KING:\n", "--max-new-tokens", "12", "--seed", "3")
    free = write(text_run, *words)
    middle = free[12]
    cut = write(text_run, *words, "--stop", middle, "--stop", "never said")
    assert cut == free[: free.index(middle, len("KING:\n"))] + "\n"


def test_text_has_the_form_that_is_asked_for(text_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    assert write(text_run, "--prompt", "A: ", "--regex", "(yes|no)") in ("A: yes\n", "A: no\n")
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"a": {"enum": [1, 22]}}, '
                      '"required": ["a"], "additionalProperties": false}')  # fmt: skip
    shown = write(text_run, "--prompt", "J", "--json-schema", str(schema))
    assert json.loads(shown[1:])["a"] in (1, 22)


def test_each_token_can_be_shown_with_loops_and_log_probability(text_run: Path) -> None:
    words = ("--prompt", "KING:\n", "--max-new-tokens", "5", "--seed", "3", "--loops", "2")
    lines = write(text_run, *words, "--logprobs").splitlines()
    found = [re.fullmatch(r" +([12]) loops +(-\d+\.\d{4})  (\".*\")", line) for line in lines]
    assert len(found) == 5
    text = "".join(json.loads(match[3]) for match in found if match is not None)
    assert "KING:\n" + text + "\n" == write(text_run, *words)


def test_what_cannot_be_answered_is_refused_in_one_line(text_run: Path, tmp_path: Path) -> None:
    both = refused(text_run, "--regex", "a", "--json-schema", "s")
    assert "give one of them" in both
    assert "cannot read the schema" in refused(text_run, "--json-schema", str(tmp_path / "none"))
    assert "no regex that can be followed" in refused(text_run, "--regex", "(")
    assert "temperature is -1.0" in refused(text_run, "--temperature", "-1")
    assert "at least 1, and fewer" in refused(text_run, "--draft-loops", "2")


def test_a_draft_changes_nothing(text_run: Path) -> None:
    words = ("--prompt", "KING:\n", "--max-new-tokens", "12", "--seed", "3")
    assert write(text_run, *words, "--draft-loops", "1") == write(text_run, *words)
