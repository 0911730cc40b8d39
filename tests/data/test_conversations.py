"""Lines to conversations, each error with its place; a split that equal ones never straddle."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from open_mythos.data.conversations import (
    Conversation,
    read_conversations,
    split_conversations,
)
from open_mythos.errors import InputError


EXAMPLES = Path(__file__).with_name("conversations.jsonl")


def said(text: str) -> Conversation:
    return Conversation(({"role": "user", "content": text},), "here:1")


def test_messages_and_pairs_are_read_with_their_places() -> None:
    found = list(read_conversations(EXAMPLES))
    assert [c.where for c in found] == [f"conversations.jsonl:{n}" for n in (1, 2, 3, 5, 6, 7)]
    assert [len(c.messages) for c in found] == [3, 4, 2, 2, 2, 2]
    assert found[2].messages == (
        {"role": "user", "content": "Two plus three?"},
        {"role": "assistant", "content": "Five."},
    )


def test_a_folder_is_all_its_files_and_gzip_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.jsonl").write_bytes(EXAMPLES.read_bytes())
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(EXAMPLES.read_bytes()))
    (tmp_path / "notes.txt").write_text("no conversation")
    found = [c.messages for c in read_conversations(tmp_path)]
    assert found == [c.messages for c in read_conversations(EXAMPLES)] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"x\.jsonl:2 is no JSON"),
        ("[1]", r"x\.jsonl:2 is no conversation.*\"messages\""),
        ('{"messages": []}', r"x\.jsonl:2 is no conversation"),
        ('{"messages": [{"role": "user"}]}', r"x\.jsonl:2 is no conversation"),
        ('{"messages": [{"role": 1, "content": ""}]}', r"x\.jsonl:2 is no conversation"),
        ('{"prompt": "a"}', r"x\.jsonl:2 is no conversation.*\"prompt\""),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\n' + line + "\n")
    with pytest.raises(InputError, match=message):
        list(read_conversations(path))


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match=r"cannot read .*x\.jsonl\.gz"):
        list(read_conversations(tmp_path))
    (tmp_path / "y.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(InputError, match=r"cannot read .*y\.jsonl"):
        list(read_conversations(tmp_path / "y.jsonl"))
    with pytest.raises(InputError, match=r"no conversations at .*missing.*\"messages\""):
        list(read_conversations(tmp_path / "missing"))


@given(st.lists(st.integers(0, 30), min_size=1), st.floats(0.01, 0.99))
def test_the_split_divides_all_and_no_equals(numbers: list[int], share: float) -> None:
    every = [said(str(n)) for n in numbers]
    if len(set(numbers)) < 2:
        with pytest.raises(InputError, match="1 different conversations"):
            split_conversations(every, share)
        return
    train, held_out = split_conversations(iter(every), share)
    assert train
    assert held_out
    assert sorted(map(id, train + held_out)) == sorted(map(id, every))
    assert not {json.dumps(c.messages) for c in train} & {json.dumps(c.messages) for c in held_out}
    assert train == [c for c in every if c in train]


def test_others_move_none_and_the_share_is_about_right() -> None:
    few = [said(str(n)) for n in range(2000)]
    many = few + [said(f"other {n}") for n in range(500)]
    _, held_out = split_conversations(few, 0.1)
    _, again = split_conversations(many, 0.1)
    assert [c for c in again if c in few] == held_out
    # Four standard deviations of a binomial.
    assert abs(len(held_out) - 200) < 4 * (2000 * 0.1 * 0.9) ** 0.5


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_a_share_of_all_or_nothing_is_refused(share: Any) -> None:
    with pytest.raises(InputError, match="must lie inside"):
        split_conversations([said("a"), said("b")], share)
