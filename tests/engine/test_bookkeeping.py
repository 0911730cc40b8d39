"""Bookkeeping against rows looked at one by one, and engines whose rows are kept by kernels."""

import random
from typing import Any

import pytest
import torch

from open_mythos.engine import bookkeeping, pages
from open_mythos.engine.bookkeeping import picked, said, turned
from open_mythos.engine.engine import Engine
from open_mythos.engine.rounds import Rounds
from open_mythos.engine.stages import Stages
from open_mythos.kernels.columns import IDLE, LANDING, LOOPING, READY, At, Out


def rounds_of(build: Any, sizes: Any) -> Rounds:
    """Rows of every status, some of them beyond what they have blocks for."""
    rounds = Rounds(Stages(build(), sizes(rows=8)))
    rounds.state[:, At.STATUS] = torch.randint(IDLE, LANDING + 1, (9,))
    rounds.state[:, At.POSITION] = torch.randint(0, 4, (9,))
    rounds.state[:, At.COVERED] = 2
    rounds.state[8] = 0
    return rounds


def test_who_waits_is_picked_up_in_order_and_nobody_fills_up(build: Any, sizes: Any) -> None:
    rounds = rounds_of(build, sizes)
    members = torch.cat((torch.randperm(8)[:6], torch.tensor([8, 8])))
    want = []
    for row in members.tolist():
        status, position = rounds.state[row, [At.STATUS, At.POSITION]].tolist()
        if status == LANDING or (status == READY and position < 2):
            want.append(row)
    for count in (1, 3, 7, 8):
        padded = [*want, *[8] * 8][:count]
        rows, numbers = picked(rounds.book, members, count)
        assert rows.tolist() == padded
        left = [row if rounds.state[row, At.STATUS] == LANDING else 8 for row in padded]
        assert numbers[5].tolist() == left


def test_a_text_ends_by_its_length_its_tokens_and_what_is_no_number(build: Any, sizes: Any) -> None:
    rounds = rounds_of(build, sizes)
    state = rounds.state
    state[:4, At.STATUS], state[:4, At.POSITION] = READY, 0
    state[:4, At.SAID], state[:4, At.MOST], state[:, At.STOPS :] = 4, 9, -1
    state[0, At.MOST], state[1, At.STOPS + 7] = 5, 6
    sound = torch.tensor([True, True, False, True])
    said(rounds.book, torch.arange(4), torch.tensor([6, 6, 6, 6]), sound, 3)
    assert state[:4, At.STATUS].tolist() == [IDLE, IDLE, IDLE, READY]
    assert state[:4, At.TOKEN].tolist() == [6] * 4
    assert state[3, [At.POSITION, At.SAID, At.LEFT]].tolist() == [1, 5, 3]
    assert rounds.out[:, :4].tolist()[:3] == [[0, 1, 2, 3], [6] * 4, [3] * 4]
    assert rounds.out[Out.SOUND, :4].tolist() == [1, 1, 0, 1]


def test_only_who_is_in_the_loop_loops(build: Any, sizes: Any) -> None:
    rounds = rounds_of(build, sizes)
    rounds.state[0, At.STATUS] = LOOPING
    before, gone = rounds.state.clone(), torch.randint(0, 2, (8,))
    turned(rounds.book, torch.arange(8), gone, 2)
    for row, (then, now) in enumerate(zip(before[:8], rounds.state[:8], strict=True)):
        looped = bool(then[At.STATUS] == LOOPING)
        assert now[At.DEPTH] == then[At.DEPTH] + 2 * looped
        assert (now[At.STATUS] != then[At.STATUS]) == (looped and bool(gone[row]))
    ready = (rounds.state[:, At.STATUS] == READY) & (rounds.state[:, At.POSITION] < 2)
    left = rounds.state[:, At.STATUS] == LANDING
    assert rounds.out[Out.WAITING, 0] == (ready | left).sum()


@pytest.mark.parametrize("design", [
    {"halted": "freeze", "readout": "last"},
    {"halted": "continue", "readout": "act"},
])  # fmt: skip
@pytest.mark.parametrize("exit", [None, "latent:0.3"])
def test_kernels_keep_rows_as_torch_does(
    build: Any, ask: Any, sizes: Any, monkeypatch: pytest.MonkeyPatch, design: Any, exit: str | None
) -> None:
    """In Triton's interpreter; with pages that kernels deepen."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("kernels are compiled here: tests/engine/test_graphs.py runs them")
    model, luck = build(**design), random.Random()
    requests = [
        ask([luck.randrange(37), 7], luck.randint(1, 6), 4, exit,
            stop_token_ids=tuple(luck.sample(range(37), 3)))
        for _ in range(5)
    ]  # fmt: skip
    settings = sizes(resident=2, stride=2)
    want = Engine(model, settings=settings).complete(requests)
    monkeypatch.setattr(bookkeeping, "rounds_backend", lambda _: "triton")
    monkeypatch.setattr(pages, "reads_blocks", lambda *_: True)
    assert Engine(model, settings=settings).complete(requests) == want
