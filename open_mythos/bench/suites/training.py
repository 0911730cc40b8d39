"""Training steps: plain, with checkpointed loops, and at random depth; peers beside them."""

import random
from collections.abc import Callable, Iterator, Sequence

from open_mythos.bench.clock import Timing
from open_mythos.bench.contender import Contender, Work, largest_batch
from open_mythos.bench.counts import compiled_graphs
from open_mythos.bench.ours import Engine, Ours
from open_mythos.bench.record import Figure
from open_mythos.bench.suite import (
    CASE_SECONDS,
    Case,
    Found,
    Setting,
    peers,
    rates,
    training_seconds,
)


STEP = "step"
DEEPEST = 16
SHUFFLE_SEED = 0
SEARCH_SECONDS = 40.0


def train(setting: Setting) -> list[Case]:
    """A training step of this library and of its peers, each at the batch that fits."""
    found = [
        _ours(setting, attn, setting.engine(checkpoint=setting.size.largest), STEP)
        for attn in setting.attns
    ]
    for attn in setting.attns:
        for build, name, extra in peers(setting, attn):
            run = _runner(setting, build, STEP)
            found.append(Case(STEP, name, run, attn, CASE_SECONDS + extra))
    return found


def checkpoint(setting: Setting) -> list[Case]:
    """The step with every loop's inside computed again in the backward pass."""
    engine = setting.engine(checkpoint=True)
    return [_ours(setting, attn, engine, "checkpointed step") for attn in setting.attns]


def _ours(setting: Setting, attn: str, engine: Engine, name: str) -> Case:
    cfg = setting.size.config(attn, max_loop_iters=setting.size.loops)
    run = _runner(setting, lambda: Ours(cfg, setting.device, engine), name)
    if setting.size.largest and engine.compile:
        run = lambda: _largest(setting, attn, engine, name)  # noqa: E731 -- beside its twin
    seconds = training_seconds(engine) + (SEARCH_SECONDS if setting.size.largest else 0)
    return Case(name, Ours.name, run, attn, seconds)


def _runner(
    setting: Setting, build: Callable[[], Contender], case: str
) -> Callable[[], Iterator[Found]]:
    """Train at the size's batch, or at the first of its halvings that fits."""

    def run() -> Iterator[Found]:
        contender = build()
        work, timing = largest_batch(
            setting.size.batch, lambda batch: _timed(setting, contender, batch), setting.clock
        )
        yield _found(setting, case, contender.name, (work, timing))

    return run


def _timed(setting: Setting, contender: Contender, batch: int) -> tuple[Work, Timing]:
    work = contender.train(batch, setting.size.seq_len)
    return work, setting.clock.time(work.step)


def _found(setting: Setting, case: str, who: str, measured: tuple[Work, Timing]) -> Found:
    work, timing = measured
    figures = {**rates(work, timing, setting.ceilings), **setting.clock.peak()}
    return Found(case=case, who=who, figures=figures, shape=work.shape, note=work.note)


def _largest(setting: Setting, attn: str, engine: Engine, case: str) -> Iterator[Found]:
    """Look for the largest batch without the compiler, whose minutes would be spent on misses."""
    cfg = setting.size.config(attn, max_loop_iters=setting.size.loops)
    plain = Ours(cfg, setting.device, Engine(**{**vars(engine), "compile": False}))

    def attempt(batch: int) -> int:
        step = plain.train(batch, setting.size.seq_len).step
        step()
        step()  # the first one has no optimizer state yet
        setting.clock.wait()
        return batch

    batch = largest_batch(setting.size.batch, attempt, setting.clock)
    setting.clock.clean()
    work = Ours(cfg, setting.device, engine).train(batch, setting.size.seq_len)
    timing = setting.clock.time(work.step, warm_up=2, repeat=3)
    found = _found(setting, case, Ours.name, (work, timing))
    yield Found(**{**vars(found), "note": f"the largest power of two that fits: {batch} rows"})


# -- depth ---------------------------------------------------------------------------------------


def depth(setting: Setting) -> list[Case]:
    """Steps at 1 to 16 loops in random order, against as many steps pinned at the same mean."""
    engine = setting.engine()
    return [
        Case("depth", Ours.name, _depth(setting, attn, engine), attn, training_seconds(engine) + 15)
        for attn in setting.attns
    ]


def depths(deepest: int) -> tuple[list[int], list[int]]:
    """Pinned and shuffled loops of as many steps as there are depths, equal in their sum.

    The mean of 1 .. n is no whole number for even n: half the pinned steps run one loop more.
    """
    shuffled = list(range(1, deepest + 1))
    random.Random(SHUFFLE_SEED).shuffle(shuffled)
    total = sum(shuffled)
    low, more = divmod(total, deepest)
    pinned = [low + (i >= deepest - more) for i in range(deepest)]
    return pinned, shuffled


def _depth(setting: Setting, attn: str, engine: Engine) -> Callable[[], Iterator[Found]]:
    def run() -> Iterator[Found]:
        pinned, shuffled = depths(DEEPEST)
        cfg = setting.size.config(attn, max_loop_iters=DEEPEST)
        # One trainer for both, so that nothing is compiled anew for the second.
        order = [*pinned, *shuffled]
        contender = Ours(cfg, setting.device, engine, order)
        work = contender.train(setting.size.batch, setting.size.seq_len)
        for _ in range(len(order)):
            work.step()
        warm = compiled_graphs()
        fixed = setting.clock.exactly(work.step, len(pinned))
        drawn = setting.clock.exactly(work.step, len(shuffled))
        new = compiled_graphs() - warm
        for case, timing, loops in (("pinned", fixed, pinned), ("random", drawn, shuffled)):
            yield _depth_row(case, work, timing, loops)
        slower = drawn.mean / fixed.mean - 1
        yield Found(
            case="random against pinned",
            who=contender.name,
            figures={"slower": Figure(slower, "1"), "recompiles": Figure(new, "graphs")},
            shape=dict(work.shape),
            note=f"{len(pinned)} steps of {sum(pinned)} loops in all, each",
        )

    return run


def _depth_row(case: str, work: Work, timing: Timing, loops: Sequence[int]) -> Found:
    rate = work.tokens * 1e3 / timing.mean
    figures = {
        "mean_step": Figure(timing.mean, "ms", timing.samples),
        "tokens_per_second": Figure(rate, "tokens/s"),
    }
    detail = [{"loops": n, "ms": ms} for n, ms in zip(loops, timing.samples, strict=True)]
    return Found(case=case, who=Ours.name, figures=figures, shape=dict(work.shape), detail=detail)
