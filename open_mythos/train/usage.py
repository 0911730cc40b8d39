"""What a step took: time, the model's FLOPs beside the device's best, and memory."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from open_mythos.config.budget import training_flops_per_token
from open_mythos.model.mythos import OpenMythos
from open_mythos.train.peaks import peak_flops


# Pages that the process holds: the second number of this file, where there is one.
PROCESS_FILE = Path("/proc/self/statm")


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a step had to do.

    Attributes:
        positions: Of the whole step, on all ranks.
        length: Positions of a row.
        depths: Loops of the rows, or the one number of all of them.
        backprop_loops: Loops that were differentiated, the last ones; None is all.
        precision: What it was computed in: "fp32", "bf16" or "fp16".
    """

    positions: int
    length: int
    depths: Sequence[int]
    backprop_loops: int | None = None
    precision: str = "fp32"


def usage(model: nn.Module, work: Work, seconds: float, waited: float) -> dict[str, Any]:
    """The measured fields of a step's record; asks the host alone, and waits for no device.

    Args:
        model: What ran; only an OpenMythos says what it costs.
        work: What it ran on.
        seconds: Wall time of the step.
        waited: Seconds of it that went into making the batch.
    """
    found: dict[str, Any] = {
        "tokens_per_second": work.positions / seconds,
        "seconds": seconds,
        "waited": waited,
    }
    weight = next(model.parameters(), None)
    if weight is None:
        return found
    if isinstance(model, OpenMythos):
        rows = Counter(work.depths)
        costs = (
            count * training_flops_per_token(model.cfg, depth, work.length, work.backprop_loops)
            for depth, count in rows.items()
        )
        rate = work.positions * sum(costs) / rows.total() / seconds
        peak = peak_flops(weight.device, work.precision)
        found["flops_per_second"] = rate
        found["mfu"] = None if peak is None else rate / (peak * devices())
    return {**found, "memory": memory_used(weight.device)}


def devices() -> int:
    """How many devices work on a step."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def memory_used(device: torch.device) -> int | None:
    """Most bytes allocated on a GPU since `forget_memory`; on a CPU, bytes the process holds."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if not PROCESS_FILE.is_file():
        return None
    pages = int(PROCESS_FILE.read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def forget_memory(device: torch.device) -> None:
    """Start the search for the most bytes anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
