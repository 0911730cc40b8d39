"""Kernels that keep the rows' table against the definitions in torch, on random tables."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from open_mythos.engine import bookkeeping as plain
from open_mythos.engine.bookkeeping import Book
from open_mythos.kernels import rounds as kernels
from open_mythos.kernels.columns import IDLE, LANDING, LOOPING, STOPS, WIDTH, At, Out


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS = 40


def drawn(rows: int = ROWS, size: int = 3) -> Book:
    """Rows of every status, some without a block, some that end by count or by a token."""
    state = torch.randint(0, 6, (rows + 1, WIDTH))
    state[:, At.STATUS] = torch.randint(IDLE, LANDING + 1, (rows + 1,))
    state[:, At.POSITION] = torch.randint(0, 12, (rows + 1,))
    state[:, At.COVERED] = torch.randint(0, 16, (rows + 1,))
    state[:, At.MOST] = state[:, At.SAID] + torch.randint(1, 5, (rows + 1,))
    state[:, At.STOPS :] = torch.where(torch.rand(rows + 1, STOPS) < 0.1, 3, -1)
    state[-1] = 0
    filler = torch.tensor([[rows, 0, 999, 0, 1, rows, 0]]).T
    tensors = state, torch.randint(-9, 0, (len(Out), rows)), torch.randint(1, 99, (rows + 1, 3))
    state, out, table = (t.to(DEVICE) for t in tensors)
    return Book(state, out, table, size, filler.to(DEVICE))


def twice(book: Book) -> tuple[Book, Book]:
    return tuple(replace(book, state=book.state.clone(), out=book.out.clone()) for _ in range(2))  # type: ignore[return-value]


def some(book: Book, count: int, nobody: int) -> Tensor:
    rows = torch.cat((torch.randperm(book.nobody)[:count], torch.full((nobody,), book.nobody)))
    return rows.to(DEVICE)


def same(mine: Book, other: Book) -> None:
    assert torch.equal(mine.state, other.state)
    assert torch.equal(mine.out, other.out)
    assert mine.state[-1, At.STATUS] == IDLE


def words(count: int) -> tuple[Tensor, Tensor]:
    """Tokens, and which of them come of numbers."""
    return torch.randint(0, 6, (count,)).to(DEVICE), (torch.rand(count) < 0.8).to(DEVICE)


@pytest.mark.parametrize("who", [None, LANDING, LOOPING])
def test_numbers_of_calls(who: int | None) -> None:
    book = drawn()
    rows = some(book, 35, 4)
    got = kernels.numbers_of(book.state, rows, who, book.lookup)
    assert torch.equal(got, plain.numbers_plain(book, rows, who))


@pytest.mark.parametrize("held", [2, 16, 1024])
@pytest.mark.parametrize("count", [1, 7, 39])
def test_who_is_picked(count: int, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one block of rows, and in several one after the other."""
    monkeypatch.setattr(kernels, "MOST", held)
    book = drawn()
    members = some(book, 35, 4)
    got = kernels.picked(book.state, members, count, book.lookup)
    for mine, other in zip(got, plain.picked_plain(book, members, count), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("noted", [False, True])
def test_tokens_of_rows_that_have_left(noted: bool) -> None:
    mine, other = twice(drawn())
    rows, _ = plain.picked_plain(mine, some(mine, ROWS, 0), ROWS - 2)
    token, sound = words(len(rows))
    read = torch.randint(0, 5, (len(rows),)).to(DEVICE) if noted else None
    got = kernels.keep(mine.state, mine.out, rows, token, sound, read, None, mine.lookup)
    assert torch.equal(got, plain.landed_plain(other, rows, token, sound, read))
    same(mine, other)


def test_tokens_of_everybody() -> None:
    mine, other = twice(drawn())
    rows = some(mine, 35, 4)
    token, sound = words(len(rows))
    kernels.keep(mine.state, mine.out, rows, token, sound, None, 3, mine.lookup)
    plain.said_plain(other, rows, token, sound, 3)
    same(mine, other)


@pytest.mark.parametrize("held", [16, 1024])
def test_loops_of_rows(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "MOST", held)
    mine, other = twice(drawn())
    members = some(mine, 35, 4)
    gone = torch.randint(0, 3, (len(members),)).to(DEVICE)  # also where nobody is in the loop
    kernels.turned(mine.state, mine.out, members, gone, 2)
    plain.turned_plain(other, members, gone, 2)
    same(mine, other)
