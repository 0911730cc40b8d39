"""Where the time goes: the kernels of a training step, of a prompt and of a decoded token."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile as profiler

from open_mythos.bench.clock import MS, Clock, Step
from open_mythos.bench.contender import Work
from open_mythos.bench.ours import Engine, Ours
from open_mythos.bench.record import Figure
from open_mythos.bench.suite import Case, Found, Setting, training_seconds


TOP = 15
STEPS = 3
LONGEST_NAME = 100


def profile(setting: Setting) -> list[Case]:
    """The final training step, a prompt as written and compiled, and a token at each batch."""
    size, found = setting.size, []
    plain, full = setting.engine(compile=False), setting.engine(checkpoint=size.largest)
    prompt = partial(Ours.prefill, batch=size.prompt_rows or size.batch, seq_len=size.seq_len)
    step = partial(Ours.train, batch=size.batch, seq_len=size.seq_len)
    works: list[tuple[str, Engine, Callable[[Ours], Work]]] = [
        ("training step", full, step),
        ("prompt", plain, prompt),
    ]
    if setting.compile:
        works.append(("prompt compiled", setting.engine(), prompt))
    for batch in size.decode_batches:
        token = partial(Ours.decode, batch=batch, context=size.context)
        works.append((f"token, batch {batch}", plain, token))
    for attn in setting.attns:
        for case, engine, make in works:
            run = _profiled(setting, attn, case, engine, make)
            found.append(Case(case, Ours.name, run, attn, training_seconds(engine)))
    return found


def _profiled(
    setting: Setting, attn: str, case: str, engine: Engine, make: Callable[[Ours], Work]
) -> Callable[[], Iterator[Found]]:
    def run() -> Iterator[Found]:
        cfg = setting.size.config(attn, max_loop_iters=setting.size.loops)
        work = make(Ours(cfg, setting.device, engine))
        wall = setting.clock.time(work.step, repeat=5, cap=2.0)
        lines = kernels(work.step, setting.clock, STEPS)
        busy = sum(line["ms"] for line in lines)
        figures = {
            "step": wall.figure(),
            "busy": Figure(busy, "ms"),
            "kernels": Figure(sum(line["calls"] for line in lines), "calls per step"),
        }
        top = [{**line, "share": round(line["ms"] / busy, 4)} for line in lines[:TOP]]
        yield Found(case=case, who=Ours.name, figures=figures, shape=work.shape, detail=top)

    return run


def kernels(step: Step, clock: Clock, steps: int) -> list[Mapping[str, Any]]:
    """Kernels of a step by time, longest first: name, milliseconds and calls per step.

    On a CPU an operator's own time stands for its kernel.
    """
    cuda = clock.device.type == "cuda"
    activities = [ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]
    clock.wait()
    with profiler(activities=activities, acc_events=True) as recorded:
        for _ in range(steps):
            step()
        clock.wait()
    lines = []
    for event in recorded.key_averages():
        if cuda and event.device_type != DeviceType.CUDA:
            continue
        micros = event.self_device_time_total if cuda else event.self_cpu_time_total
        lines.append(
            {
                "kernel": event.key[:LONGEST_NAME],
                "ms": micros / MS / steps,
                "calls": event.count / steps,
            }
        )
    return sorted(lines, key=lambda line: -line["ms"])
