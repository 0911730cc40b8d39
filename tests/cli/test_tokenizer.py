"""Text in, a tokenizer in a folder out; and what it is, shown in words and in JSON."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from open_mythos.cli.main import app
from open_mythos.cli.tokenizer import Counter, described, texts
from open_mythos.data.corpus import plays_text
from open_mythos.data.tokenizer import BPETokenizer, MythosTokenizer, load_tokenizer
from open_mythos.errors import InputError


TEXT = plays_text()[:140_000].replace("\f", "")  # a form feed would part documents


def call(*words: str | Path) -> Any:
    return CliRunner().invoke(app, ["tokenizer", *map(str, words)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One text in three files of three kinds."""
    third = len(TEXT) // 3
    (tmp_path / "text" / "below").mkdir(parents=True)
    (tmp_path / "text" / "a.txt").write_text(TEXT[:third])
    lines = [json.dumps({"text": part}) for part in (TEXT[third : 2 * third], "", "é")]
    (tmp_path / "text" / "b.jsonl").write_text("\n\n".join(lines))
    packed = json.dumps({"text": TEXT[2 * third :]}).encode()
    (tmp_path / "text" / "below" / "c.jsonl.gz").write_bytes(gzip.compress(packed))
    (tmp_path / "text" / "d.md").write_text("not read")
    return tmp_path / "text"


def test_a_trained_one_is_loaded_by_its_folder(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = call("train", folder, "--vocab-size", "300", "--out", out)
    assert result.exit_code == 0, result.output
    assert "300 tokens from 0.1 MB" in result.stderr
    assert "model.vocab_size=320" in result.stderr
    found = load_tokenizer(out)
    assert isinstance(found, BPETokenizer)
    assert found.vocab_size == 300
    assert found.special_tokens["<|assistant|>"] == 3
    assert found.decode(found.encode(TEXT)) == TEXT
    # The same from the whole text at once, and in a file of one's own.
    whole = tmp_path / "whole.txt"
    whole.write_text(TEXT + "é")
    assert call("train", whole, "--vocab-size", "300", "--out", tmp_path / "o.json").exit_code == 0
    again = load_tokenizer(tmp_path / "o.json")
    assert again.vocab_size == 300


def test_training_twice_gives_the_same_file(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert call("train", folder, "--vocab-size=280", "--out", tmp_path / name).exit_code == 0
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_text_comes_whole_whatever_holds_it(folder: Path) -> None:
    third = len(TEXT) // 3
    wanted = TEXT[: 2 * third] + "é" + TEXT[2 * third :]
    # Line breaks at the ends of a file are no part of its documents.
    found = "".join(texts([str(folder)], "text"))
    assert found.replace("\n", "") == wanted.replace("\n", "")


def test_a_limit_ends_the_reading() -> None:
    counter = Counter(10)
    assert list(counter.counted(["abcdefgh", "ééé", "never"])) == ["abcdefgh", "ééé"]
    assert counter.n_bytes == 14
    assert counter.sample == ["abcdefgh", "ééé"]


def test_few_words_give_few_tokens_and_say_so(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("abab")
    result = call("train", tmp_path / "x.txt", "--vocab-size", "4000", "--out", tmp_path / "o")
    assert "fewer tokens than the 4000 asked for" in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"body": "x"}\n', r"a\.jsonl.*text"),
        ("a.txt", b"fine \xff\xfe", r"document 0 of .*a\.txt.*surrogate"),
        ("a.bin", b"", "holds no file that ends in"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(texts([str(tmp_path)], "text"))


def test_nothing_to_learn_from_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    result = call("train", tmp_path, "--out", tmp_path / "o")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no text; nothing can be learnt" in result.stderr
    result = call("train", tmp_path, "--vocab-size", "260", "--out", tmp_path / "o")
    assert "vocab_size is 260" in result.stderr
    assert not (tmp_path / "o").exists()


def test_show_prints_sizes_and_takes_a_text_apart() -> None:
    result = call("show", "byte", "hé")
    assert result.exit_code == 0
    for part in ("257 tokens", "320 (64), 384 (128)", "<|user|>=249", "104 195 169", "1.000"):
        assert part in result.stdout
    assert "chat template   yes" in result.stdout
    assert "chat template   no" in call("show", "plays").stdout


def test_json_says_the_same() -> None:
    found = json.loads(call("show", "plays", "To be", "--json").stdout)
    assert found == described(MythosTokenizer("plays"), "To be")
    assert found["ids"] == load_tokenizer("plays").encode("To be")
    assert "".join(found["pieces"]) == "To be"
    assert found["bytes_per_token"] == 5 / len(found["ids"])


def test_a_name_that_leads_nowhere_is_one_line() -> None:
    result = call("show", "/no/such")
    assert result.exit_code == 2
    assert result.stderr.startswith("open-mythos: there is no tokenizer at '/no/such'")
