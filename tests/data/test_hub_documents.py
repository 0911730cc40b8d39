"""Rows of a hub that is made up; and no hub, which is found out at once. No network is used."""

import inspect
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from open_mythos.data import hub_documents
from open_mythos.data.documents import find_sources
from open_mythos.data.hub_documents import SWITCHES, read_hub, require_hub
from open_mythos.data.readers import BadRecords, Reading
from open_mythos.errors import InputError, MissingExtraError


class Rows:
    """Stands for a streamed data set whose connection may break."""

    def __init__(self, rows: list[dict[str, Any]], breaks_at: int | None = None) -> None:
        self.rows, self.breaks_at = rows, breaks_at

    def skip(self, count: int) -> "Rows":
        return Rows(self.rows[count:])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index, row in enumerate(self.rows):
            if index == self.breaks_at:
                raise ConnectionError("the line is dead\nand a second line")
            yield row


class FakeDatasets:
    """Stands for the package `datasets`."""

    def __init__(self, rows: Rows | None) -> None:
        self.rows = rows
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def load_dataset(self, *args: Any, **kwargs: Any) -> Rows:
        self.calls.append((args, kwargs))
        if self.rows is None:
            raise ValueError("unknown split\nmore")
        return self.rows


@pytest.fixture(autouse=True)
def no_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SWITCHES, "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def install(monkeypatch: pytest.MonkeyPatch, rows: Rows | None) -> FakeDatasets:
    fake = FakeDatasets(rows)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return fake


ROWS = [{"text": f"document {i}", "body": i} for i in range(5)]


@pytest.mark.parametrize(
    ("name", "args", "split"),
    [
        ("a/b", ("a/b", None), "train"),
        ("a/b:c", ("a/b", "c"), "train"),
        ("a/b:c:test", ("a/b", "c"), "test"),
    ],
)
def test_a_name_says_subset_and_split(
    monkeypatch: pytest.MonkeyPatch, name: str, args: tuple[Any, ...], split: str
) -> None:
    fake = install(monkeypatch, Rows(ROWS))
    found = list(read_hub(name, Reading(BadRecords())))
    assert [piece.text for piece in found] == [row["text"] for row in ROWS]
    assert [piece.record for piece in found] == list(range(5))
    assert fake.calls == [(args, {"split": split, "streaming": True})]


def test_the_real_package_takes_this_call() -> None:
    datasets = pytest.importorskip("datasets")
    inspect.signature(datasets.load_dataset).bind("a/b", None, split="train", streaming=True)
    rows = datasets.Dataset.from_list(ROWS).to_iterable_dataset().skip(3)
    assert [row["text"] for row in rows] == ["document 3", "document 4"]


def test_reading_goes_on_at_a_row_and_skips_bad_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Rows([*ROWS[:3], {"text": None}, ROWS[4]]))
    lenient = Reading(BadRecords(skip=True), first=2)
    assert [piece.record for piece in read_hub("a/b", lenient)] == [2, 4]
    assert lenient.bad.count == 1
    with pytest.raises(InputError, match="a/b, row 4: field 'text' holds no text"):
        list(read_hub("a/b", Reading(BadRecords())))


def test_what_the_hub_lacks_and_a_dead_line_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None)
    with pytest.raises(InputError, match=r"no data set 'a/b' \(unknown split\)"):
        list(read_hub("a/b", Reading(BadRecords())))
    install(monkeypatch, Rows(ROWS, breaks_at=3))
    stream = read_hub("a/b", Reading(BadRecords()))
    assert [next(stream).record for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match=r"at row 4 \(the line is dead\); run the same command"):
        next(stream)


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"'a/b'.*local files.*open-mythos\[data\]"):
        list(read_hub("a/b", Reading(BadRecords())))


def test_without_a_hub_an_id_is_refused_before_anything_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # it is not even looked for
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and does not listen; held, so that nobody else will
        closed = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", closed)
        said = f"no file or folder 'a/b'.*no hub answered at {closed}"
        with pytest.raises(InputError, match=said):
            find_sources(["a/b"])


@pytest.mark.parametrize("switch", SWITCHES)
def test_the_offline_switches_are_obeyed(monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    asked: list[str] = []
    monkeypatch.setattr(hub_documents, "hub_answers", lambda url: bool(asked.append(url)) or True)
    require_hub("a/b")
    assert asked
    monkeypatch.setenv(switch, "yes")
    with pytest.raises(InputError, match=f"{switch} forbids it; local files"):
        require_hub("a/b")
    assert len(asked) == 1
