"""The runner's stages, called by hand, against a pass of the model."""

from typing import Any

import pytest
import torch

from open_mythos.engine.flight import Run, Track
from open_mythos.engine.runner import Runner, Turned


def going(track: Track, lanes: list[int], first: int, loop: int = 0) -> Run:
    return Run(track, first, lanes, list(range(first, first + len(lanes))), loop)


@torch.no_grad()
@pytest.mark.parametrize("buckets", [(), (8, 16)])
def test_two_texts_half_a_loop_apart_say_what_each_says_alone(
    build: Any, sizes: Any, attn_type: str, buckets: tuple[int, ...]
) -> None:
    model = build(attn_type=attn_type, readout="last")
    runner = Runner(model, sizes(buckets=buckets))
    texts = [[1, 2, 3, 4, 5], [6, 7, 8, 9], [10]]
    a = Track(0, texts[0], 3, None, row=0, blocks=[3, 1])
    b = Track(1, texts[1], 2, None, row=1, blocks=[2])
    c = Track(2, texts[2], 1, None, row=2, blocks=[4])
    first, second = [4, 5, 6, 7, 8], [9, 10, 11, 0]
    early = [going(a, first, 0), going(c, [2], 0)]
    runner.enter(early)
    assert runner.turn(early) == Turned(1, [[0] * 5, [1]])  # nobody is asked before c's end
    runner.enter([going(b, second, 0)])
    together = [going(b, second, 0), going(a, first, 0, 1)]
    assert runner.turn(together) == Turned(2, [[2] * 4, [3] * 5])
    said = runner.land([going(a, first, 0, 3), going(c, [2], 0, 1), going(b, second, 0, 2)])
    assert said.logits is not None
    for logits, text, loops in zip(
        said.logits, (texts[0], texts[2], texts[1]), (3, 1, 2), strict=True
    ):
        assert torch.allclose(logits, model(torch.tensor([text]), loops)[0, -1], atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_who_is_asked_later_has_left_no_later(build: Any, sizes: Any, stride: int) -> None:
    model = build(readout="act", halted="freeze", act_threshold=0.4)
    runner = Runner(model, sizes(stride=stride))
    tracks = [Track(i, [i], 4, None, row=i, blocks=[i + 1]) for i in range(4)]
    runs = [going(track, [i], 0) for i, track in enumerate(tracks)]
    runner.enter(runs)
    loops = [0] * 4
    for asked in range(0, 4, stride):
        runs = [going(tracks[i], [i], 0, asked) for i in range(4) if not loops[i]]
        if runs:
            done = runner.turn(runs)
            assert done.turns == min(stride, 4 - asked)
            for run, (left,) in zip(runs, done.left, strict=True):
                loops[run.track.id] = left
    want = [int(model(torch.tensor([[i]]), 4, return_output=True).loops_used) for i in range(4)]
    assert loops == want
    said = runner.land([going(track, [i], 0, loops[i]) for i, track in enumerate(tracks)])
    assert said.logits is not None
    for i in range(4):
        assert torch.allclose(said.logits[i], model(torch.tensor([[i]]), 4)[0, -1], atol=1e-10)


@torch.no_grad()
def test_logits_are_formed_where_somebody_reads_them(build: Any, sizes: Any) -> None:
    model = build(readout="last")
    runner = Runner(model, sizes())
    track = Track(0, [1, 2, 3, 4, 5], 1, None, row=0, blocks=[1, 2], whole=True)
    piece = going(track, [4, 5, 6, 7], 0)
    for stage in (runner.enter, runner.turn):
        stage([piece])
    said = runner.land([piece])
    assert said.logits is None  # it does not end with the last token
    want = model(torch.tensor([track.tokens]), 1)[0]
    assert torch.allclose(said.whole[0], want[:4], atol=1e-10)


@torch.no_grad()
def test_constants_follow_the_weights_when_told(build: Any, sizes: Any) -> None:
    model = build()
    runner = Runner(model, sizes())
    before = [t.clone() for t in runner.stages.constants.tensors()]
    for parameter in model.recurrent.parameters():
        parameter.mul_(1.5)
    kept = runner.stages.constants.tensors()
    assert all(torch.equal(a, b) for a, b in zip(before, kept, strict=True))
    runner.refresh()
    now = runner.stages.constants.tensors()
    assert not all(torch.equal(a, b) for a, b in zip(before, now, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("buckets", [(), (4,)])
def test_one_call_through_everything_says_what_a_pass_says(
    build: Any, sizes: Any, attn_type: str, buckets: tuple[int, ...]
) -> None:
    """Token by token: what an earlier call wrote is what a later one sees, one depth for all."""
    model = build(attn_type=attn_type, readout="last")
    runner = Runner(model, sizes(buckets=buckets))
    texts = torch.randint(0, model.cfg.vocab_size, (3, 6)).tolist()
    tracks = [Track(i, [], 3, None, row=i, blocks=[2 * i + 1, 2 * i + 2]) for i in range(3)]
    for at in range(6):
        for track, text in zip(tracks, texts, strict=True):
            track.tokens = text[: at + 1]
        runs = [going(track, [i], at) for i, track in enumerate(tracks)]
        assert runner.straight(runs)
        said = runner.through(runs).logits
        assert said is not None
        want = model(torch.tensor(texts)[:, : at + 1], 3)[:, -1]
        assert torch.allclose(said, want, atol=1e-10)


def test_only_single_positions_of_one_depth_that_stay_go_straight(build: Any, sizes: Any) -> None:
    runner = Runner(build(readout="last"), sizes())
    tracks = [Track(i, [1, 2, 3], n, None, row=i, blocks=[i + 1]) for i, n in enumerate((3, 3, 2))]
    runs = [going(track, [i], 2) for i, track in enumerate(tracks)]
    assert runner.straight(runs[:2])
    assert not runner.straight(runs)
    assert not runner.straight([runs[0], going(tracks[1], [4, 5], 1)])
    halting = Runner(build(readout="act"), sizes())
    assert not halting.straight(runs[:2])
    tracks[1].leave = object()  # type: ignore[assignment]
    assert not runner.straight(runs[:2])
