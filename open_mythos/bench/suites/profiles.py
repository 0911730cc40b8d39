"""Where the time goes: the kernels of a training step and of a decoded token."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile as profiler

from open_mythos.bench.clock import MS, Clock, Step
from open_mythos.bench.ours import Ours
from open_mythos.bench.record import Figure
from open_mythos.bench.suite import CASE_SECONDS, Case, Found, Setting, training_seconds


TOP = 15
STEPS = 3
LONGEST_NAME = 100


def profile(setting: Setting) -> list[Case]:
    """The final training step, and a token at each batch."""
    found = []
    for attn in setting.attns:
        engine = setting.engine(checkpoint=setting.size.largest)
        train = _profiled(setting, attn, "training step")
        found.append(Case("training step", Ours.name, train, attn, training_seconds(engine)))
        for batch in setting.size.decode_batches:
            run = _profiled(setting, attn, f"token, batch {batch}", batch)
            found.append(Case(f"token, batch {batch}", Ours.name, run, attn, CASE_SECONDS))
    return found


def _profiled(
    setting: Setting, attn: str, case: str, decode_batch: int | None = None
) -> Callable[[], Iterator[Found]]:
    def run() -> Iterator[Found]:
        size = setting.size
        cfg = size.config(attn, max_loop_iters=size.loops)
        engine = setting.engine(checkpoint=size.largest)
        ours = Ours(cfg, setting.device, engine)
        if decode_batch is None:
            work = ours.train(size.batch, size.seq_len)
        else:
            work = ours.decode(decode_batch, size.context)
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
