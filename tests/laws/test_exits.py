"""Exits: who leaves when, by hand; one answer however the tokens arrive; monotone thresholds."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.exits.criterion import Seen
from open_mythos.nn.loop.exits.predictions import Oracle
from open_mythos.nn.loop.exits.registry import EXITS, exit_named


Build = Callable[..., OpenMythos]
LOOPS = 6
# At these, some positions of a random network leave early and some late or never.
EVERY = (
    "fixed:3",
    "act:0.95",
    "latent:0.2",
    "settled:0.3",
    "acceleration:0.2",
    "kl:0.3",
    "entropy:3.3",
    "stability:2",
    "gate:0.7",
)

# Loops of several kinds, of which exits must not need to know.
PARTS: tuple[dict[str, Any], ...] = (
    {"attn_type": "gqa"},
    {"attn_type": "mla", "injection": "hyper", "streams": 2, "loop_norm": "sandwich"},
    {"core_layers": 2, "core_ffn": "dense", "initial_state": "zeros", "injection": "concat_linear"},
)


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def slow_to_settle(build: Build, **changes: Any) -> OpenMythos:
    """A network whose states still move after some loops, at some positions more than at others."""
    model = build(**changes)
    with torch.no_grad():
        for parameter in model.recurrent.block.parameters():
            parameter.mul_(1.5)
        model.recurrent.act.halt.weight.mul_(0.5)
        model.recurrent.act.halt.bias.fill_(-1.0)
    return model


def test_every_exit_is_under_these_laws() -> None:
    assert {exit_named(text).name for text in EVERY} == set(EXITS)


# -- by hand -------------------------------------------------------------------------------------


@torch.no_grad()
def states(model: OpenMythos, ids: Tensor) -> list[Tensor]:
    """h_0 .. h_LOOPS of a network without a coda that reads the last state: a pass for each."""
    seen: list[Tensor] = []
    handle = model.norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for n_loops in range(1, LOOPS + 1):
        model(ids, n_loops)
    handle.remove()
    return [start(model, ids), *seen]


def start(model: OpenMythos, ids: Tensor) -> Tensor:
    """The state before the first loop."""
    run, first = model.recurrent.run, []

    def look(h: Tensor, *args: Any, **how: Any) -> Any:
        first.append(h)
        return run(h, *args, **how)

    model.recurrent.run = look
    model(ids, 1)
    del model.recurrent.run
    streams = model.cfg.streams if model.cfg.injection == "hyper" else 1
    return streams * first[0]  # as many alike, which are read as their sum


def moved(x: list[Tensor], t: int) -> float:
    """Relative change in loop t; endless before the first."""
    return float((x[t] - x[t - 1]).norm() / x[t].norm()) if t else float("inf")


def jump(x: list[Tensor], t: int) -> float:
    """Relative change of the step of loop t; endless where there is no step before it."""
    if t < 2:
        return float("inf")
    change = (x[t] - x[t - 1]) - (x[t - 1] - x[t - 2])
    return float(change.norm() / x[t].norm())


def scores(model: OpenMythos, name: str, h: list[Tensor], b: int, s: int) -> Iterator[float]:
    """One position's scores after each loop, from its states: the definitions, in plain numbers."""
    x = [state[b, s] for state in h]
    p = [1 / (1 + (-model.recurrent.act.halt(v)).exp()).item() for v in x]
    logs = [model.head(model.norm(v)).log_softmax(-1) for v in x]
    best = [int(log.argmax()) for log in logs]
    never = float("inf")

    for t in range(1, len(x)):
        if name == "fixed":
            yield t
        elif name == "act":
            yield sum(p[1 : t + 1])
        elif name == "gate":
            going = 1.0
            for value in p[1 : t + 1]:
                going *= 1 - value
            yield 1 - going
        elif name == "latent":
            yield moved(x, t)
        elif name == "settled":
            yield max(moved(x, t - 1), moved(x, t))
        elif name == "acceleration":
            yield max(jump(x, t), jump(x, t - 1))
        elif name == "entropy":
            yield -float(sum(v.exp() * v for v in logs[t]))
        elif name == "kl":
            divergence = sum(a.exp() * (a - z) for a, z in zip(logs[t], logs[t - 1], strict=True))
            yield float(divergence) if t > 1 else never
        else:
            run = 0
            while run < t - 1 and best[t - run - 1] == best[t]:
                run += 1
            yield run


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("parts", PARTS, ids=str)
@torch.no_grad()
def test_positions_leave_where_the_definition_says(
    text: str, parts: dict[str, Any], build: Build
) -> None:
    """With halted "continue" states do not depend on exits: plain passes tell all of them."""
    model = slow_to_settle(build, **parts, readout="last", coda_layers=0)
    ids = torch.randint(37, (2, 5))
    rule, h = exit_named(text), states(model, ids)
    plain = [model(ids, n) for n in range(1, LOOPS + 1)]
    out = model(ids, LOOPS, exit=text, return_output=True)
    for b in range(2):
        for s in range(5):
            marks = [
                score >= rule.threshold if rule.above else score <= rule.threshold
                for score in scores(model, rule.name, h, b, s)
            ]
            left = marks.index(True) + 1 if True in marks else LOOPS
            assert int(out.loops_used[b, s]) == left
            close(out.logits[b, s], plain[left - 1][b, s])


@torch.no_grad()
def test_the_laws_see_early_and_late_exits(build: Build) -> None:
    """Else they would hold of a pass without exits."""
    ids = torch.randint(37, (4, 8))
    for text in EVERY[1:]:
        used = torch.cat(
            [
                slow_to_settle(build, readout="last")(
                    ids, LOOPS, exit=text, return_output=True
                ).loops_used
                for _ in range(4)
            ]
        )
        assert used.unique().numel() > 1, text
        assert used.min() < LOOPS, text


# -- fixed = plain, act = act_last ---------------------------------------------------------------


@torch.no_grad()
def test_fixed_is_a_plain_pass(any_config: Any, build: Build) -> None:
    model, ids = build(any_config), torch.randint(37, (3, 5))
    for n_loops in (1, 2, 4):
        plain = model(ids, n_loops, return_output=True)
        for most in (4, [4, 4, 4]):
            out = model(ids, most, exit=f"fixed:{n_loops}", return_output=True)
            close(out.logits, plain.logits)
            assert torch.equal(out.loops_used, plain.loops_used)
        late = model(ids, n_loops, exit="fixed:9")
        close(late, plain.logits)


@torch.no_grad()
def test_the_act_exit_on_last_states_is_the_readout_act_last(
    attn_type: str, halted: str, build: Build
) -> None:
    model = slow_to_settle(build, attn_type=attn_type, readout="last", halted=halted)
    ids = torch.randint(37, (3, 6))
    for threshold in (0.3, 0.6, 0.95):
        model.recurrent.cfg.readout = "last"
        out = model(ids, LOOPS, exit=f"act:{threshold}", return_output=True)
        model.recurrent.cfg.readout, model.recurrent.cfg.act_threshold = "act_last", threshold
        want = model(ids, LOOPS, return_output=True)
        close(out.logits, want.logits)
        assert torch.equal(out.loops_used, want.loops_used)
        assert out.n_loops == want.n_loops


# -- however the tokens arrive -------------------------------------------------------------------


@pytest.mark.parametrize("text", EVERY)
@torch.no_grad()
def test_cached_chunked_batched_and_per_row_passes_agree(
    text: str, readout: str, halted: str, build: Build
) -> None:
    parts = PARTS[int(torch.randint(len(PARTS), ()))]
    model = slow_to_settle(build, readout=readout, halted=halted, **parts)
    ids = torch.randint(37, (3, 6))
    whole = model(ids, LOOPS, exit=text, return_output=True)
    for cache, cuts in ((model.new_cache(3, 6), [4, 1, 1]), ({}, [1, 3, 2])):
        parts = [
            model(part, LOOPS, cache, exit=text, return_output=True)
            for part in ids.split(cuts, dim=1)
        ]
        close(torch.cat([part.logits for part in parts], dim=1), whole.logits)
        assert torch.equal(torch.cat([part.loops_used for part in parts], 1), whole.loops_used)
    close(torch.cat([model(row.unsqueeze(0), LOOPS, exit=text) for row in ids]), whole.logits)
    rows = model(ids, [2, LOOPS, 4], exit=text, return_output=True)
    for row, most in enumerate((2, LOOPS, 4)):
        alone = model(ids[row : row + 1], most, exit=text, return_output=True)
        close(rows.logits[row], alone.logits[0])
        assert torch.equal(rows.loops_used[row], alone.loops_used[0])


@torch.no_grad()
def test_padding_neither_leaves_nor_stays(halted: str, build: Build) -> None:
    model = slow_to_settle(build, readout="last", halted=halted)
    ids, mask = torch.randint(37, (2, 5)), torch.tensor([[0, 0, 1, 1, 1], [1] * 5])
    out = model(ids, LOOPS, exit="latent:0.2", attention_mask=mask)
    alone = model(ids[:1, 2:], LOOPS, exit="latent:0.2")
    close(out[0, 2:], alone[0])


@torch.no_grad()
def test_loops_that_nobody_needs_are_not_run(build: Build) -> None:
    ids = torch.randint(37, (2, 6))
    for halted, cached, ran in (
        ("freeze", False, 2), ("freeze", True, 2), ("continue", False, 2), ("continue", True, 5),
    ):  # fmt: skip
        model = build(readout="last", halted=halted)
        cache = model.new_cache(2, 6) if cached else None
        assert model(ids, 5, cache, exit="fixed:2", return_output=True).n_loops == ran


@torch.no_grad()
def test_generated_tokens_are_those_of_passes_without_a_cache(halted: str, build: Build) -> None:
    model = slow_to_settle(build, readout="last", halted=halted)
    ids = torch.randint(37, (2, 4))
    got = model.generate(ids, 4, LOOPS, 0.0, exit="kl:0.3")
    for _ in range(4):
        logits = model(ids, LOOPS, exit="kl:0.3")
        ids = torch.cat((ids, logits[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(got, ids)


# -- monotone ------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(
    name=st.sampled_from(sorted(set(EXITS))),
    pair=st.tuples(st.floats(1e-3, 1.0), st.floats(1e-3, 1.0)),
    readout=st.sampled_from(["act", "last", "act_last"]),
)
@torch.no_grad()
def test_a_looser_threshold_never_leaves_later(
    name: str, pair: tuple[float, float], readout: str, build: Build
) -> None:
    """Under "continue" for every position; under "freeze" for the first, which sees no other."""
    kind = EXITS[name]
    scale = {"entropy": 4.0, "latent": 2.0, "settled": 2.0, "acceleration": 2.0}.get(name, 1.0)
    tight, loose = sorted((scale * value for value in pair), reverse=kind.above)
    if kind.whole:
        tight, loose = (1.0 + int(value * 5) for value in (tight, loose))
    ids = torch.randint(37, (2, 5))
    for halted, seen in (("continue", slice(None)), ("freeze", slice(0, 1))):
        model = slow_to_settle(build, readout=readout, halted=halted)
        late, early = (
            model(ids, LOOPS, exit=kind(value), return_output=True).loops_used[:, seen]
            for value in (tight, loose)
        )
        assert bool((early <= late).all())


# -- exits of one's own --------------------------------------------------------------------------


class Odd:
    """Leaves after an odd number of loops, three at least, where the first channel is positive."""

    def done(self, seen: Seen) -> Tensor:
        return (seen.after[..., 0] > 0) & (seen.loop >= 3) & (seen.loop % 2 == 1)


@torch.no_grad()
def test_any_object_that_decides(build: Build) -> None:
    model, ids = slow_to_settle(build, readout="last", coda_layers=0), torch.randint(37, (2, 6))
    out = model(ids, LOOPS, exit=Odd(), return_output=True)
    h = states(model, ids)
    for b in range(2):
        for s in range(6):
            left = next((t for t in (3, 5) if h[t][b, s, 0] > 0), LOOPS)
            assert int(out.loops_used[b, s]) == left


@torch.no_grad()
def test_the_oracle_leaves_at_the_first_right_loop(build: Build) -> None:
    model, ids = slow_to_settle(build, readout="last", coda_layers=0), torch.randint(37, (2, 6))
    answers = torch.stack([model(ids, n).argmax(-1) for n in range(1, LOOPS + 1)])
    targets = answers[torch.randint(LOOPS, ())].clone()
    targets[0, 0] = -100
    out = model(ids, LOOPS, exit=Oracle(targets), return_output=True)
    for b in range(2):
        for s in range(6):
            right = [n + 1 for n in range(LOOPS) if answers[n, b, s] == targets[b, s]]
            assert int(out.loops_used[b, s]) == (right[0] if right else LOOPS)
