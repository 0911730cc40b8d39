"""How cost grows: with loops, with length, with experts, and under truncated gradients."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from open_mythos.bench.clock import Timing
from open_mythos.bench.contender import Work
from open_mythos.bench.curve import line
from open_mythos.bench.ours import Engine, Ours
from open_mythos.bench.record import Figure
from open_mythos.bench.suite import Case, Found, Setting, rates, training_seconds
from open_mythos.config.mythos import MythosConfig


LOOPS = (1, 2, 4, 8, 12, 16)
EXPERTS = (8, 32, 128, 256)
DEEP = (4, 8, 16, 32, 64)
KEPT_LOOPS = 4
SECONDS = 20.0
SHARE_OF_BATCH = 4  # a quarter of the batch: 16 loops' activations of all of it would not fit

Attempt = Callable[[int], tuple[Work, Timing]]
EAGER = "eager: nothing is compiled for these shapes"


def growth(setting: Setting) -> list[Case]:
    """Curves of a training step's time and peak memory, with the straightness of each."""
    attn = setting.attns[0]
    engine = setting.engine(compile=False)
    kept = replace(engine, backprop_loops=KEPT_LOOPS)
    quick = setting.engine()
    runs = {
        "loops": lambda: _loops(setting, attn, quick),
        "length": lambda: _lengths(setting, attn, engine),
        "experts": lambda: _experts(setting, attn, engine),
        "truncated": lambda: _truncated(setting, attn, kept),
    }
    needs = {"loops": training_seconds(quick)}
    return [
        Case(name, Ours.name, run, attn, needs.get(name, SECONDS)) for name, run in runs.items()
    ]


def _loops(setting: Setting, attn: str, engine: Engine) -> Iterator[Found]:
    """Compiled where training is, at the whole batch: smaller eager steps time the host instead."""
    rows = setting.size.batch if engine.compile else _rows(setting)
    return curve(setting, "loops", LOOPS, _deepening(setting, attn, engine, LOOPS, rows))


def _deepening(
    setting: Setting, attn: str, engine: Engine, loops: Sequence[int], rows: int
) -> Attempt:
    """One trainer, asked for other loops each time."""
    size = setting.size
    depth = [1]
    cfg = size.config(attn, max_loop_iters=max(loops))
    work = Ours(cfg, setting.device, engine, depth).train(rows, size.seq_len)

    def attempt(n: int) -> tuple[Work, Timing]:
        depth[0] = n
        setting.clock.clean()
        timing = setting.clock.time(work.step, repeat=5, cap=2.0)
        return replace(work, flops=0.0), timing

    return attempt


def _rows(setting: Setting) -> int:
    return max(1, setting.size.batch // SHARE_OF_BATCH)


def _lengths(setting: Setting, attn: str, engine: Engine) -> Iterator[Found]:
    longest = setting.size.model.max_seq_len
    cfg = setting.size.config(attn, max_loop_iters=setting.size.loops)

    def attempt(length: int) -> tuple[Work, Timing]:
        return _built_anew(setting, cfg, engine, (max(1, _rows(setting) // 2), length))

    return curve(setting, "length", [longest // k for k in (16, 8, 4, 2, 1)], attempt)


def _built_anew(
    setting: Setting, cfg: MythosConfig, engine: Engine, shape: tuple[int, int]
) -> tuple[Work, Timing]:
    setting.clock.clean()
    work = Ours(cfg, setting.device, engine).train(*shape)
    return work, setting.clock.time(work.step, repeat=5, cap=2.0)


def _experts(setting: Setting, attn: str, engine: Engine) -> Iterator[Found]:
    size = setting.size

    def attempt(experts: int) -> tuple[Work, Timing]:
        cfg = size.config(attn, n_experts=experts, max_loop_iters=size.loops)
        return _built_anew(setting, cfg, engine, (size.batch, size.seq_len))

    times: list[float] = []
    for found in curve(setting, "experts", EXPERTS, attempt):
        if "step" in found.figures:
            times.append(found.figures["step"].value)
        yield found
    yield Found(
        case=f"experts {EXPERTS[0]} to {EXPERTS[-1]}",
        who=Ours.name,
        figures={"more_time": Figure(times[-1] / times[0] - 1, "1")},
        note=f"top {size.model.n_experts_per_tok} throughout",
    )


def _truncated(setting: Setting, attn: str, engine: Engine) -> Iterator[Found]:
    peaks: list[float] = []
    attempt = _deepening(setting, attn, engine, DEEP, _rows(setting))
    for found in curve(setting, "truncated", DEEP, attempt):
        if "peak_memory" in found.figures:
            peaks.append(found.figures["peak_memory"].value)
        yield found
    if peaks:
        yield Found(
            case=f"truncated {DEEP[0]} to {DEEP[-1]}",
            who=Ours.name,
            figures={"more_memory": Figure(peaks[-1] / peaks[0] - 1, "1")},
            note=f"gradients through the last {KEPT_LOOPS} loops",
        )


def curve(setting: Setting, name: str, points: Sequence[int], attempt: Attempt) -> Iterator[Found]:
    """A row for each point, then one with the lines through their times and peaks."""
    times: list[float] = []
    peaks: list[float] = []
    for point in points:
        work, timing = attempt(point)
        peak = setting.clock.peak()
        times.append(timing.median)
        peaks.extend(figure.value for figure in peak.values())
        figures = {**rates(work, timing, None), **peak}
        shape = {**work.shape, name: point}
        del work  # or the next point's model is built beside this one
        note = "" if shape.get("compile") else EAGER
        yield Found(case=f"{name} {point}", who=Ours.name, figures=figures, shape=shape, note=note)
    yield Found(case=f"{name} line", who=Ours.name, figures=lines(points, times, peaks))


def lines(
    points: Sequence[int], times: Sequence[float], peaks: Sequence[float]
) -> dict[str, Figure]:
    """Slopes and straightness; of memory too, where it was counted."""
    time = line(points, times)
    figures = {"time_r2": Figure(time.r2, "1"), "time_slope": Figure(time.slope, "ms per unit")}
    if len(peaks) == len(points):
        memory = line(points, peaks)
        figures["memory_r2"] = Figure(memory.r2, "1")
        figures["memory_slope"] = Figure(memory.slope, "GiB per unit")
    return figures
