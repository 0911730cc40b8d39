"""What a suite is: from a setting to guarded pieces of work, each with what it will find."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from open_mythos.bench.clock import MS, Clock, Timing
from open_mythos.bench.contender import Contender, Work
from open_mythos.bench.floor import Ceilings
from open_mythos.bench.ours import DTYPES, Engine
from open_mythos.bench.record import Figure, Figures
from open_mythos.bench.sizes import Size
from open_mythos.train.recipe import Precision


LONGEST_ERROR = 300
# Results are published; where somebody's files lie is not part of them.
FOLDERS = re.compile(r"(?<![\w.])/(?:[\w.@+-]+/)+")
PEER_COMPILE_SECONDS = 60.0
COMPILE_SECONDS = 45.0
CASE_SECONDS = 8.0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What suites are asked to measure.

    Attributes:
        device: Where.
        size: At what size.
        attns: Kinds of attention, "gqa" or "mla".
        precision: Of this library's computation, and of peers where they can.
        compile: Whether this library's training is compiled.
        peer: Folder of the unpacked open-mythos 0.5.0; None leaves it out.
        hugging_face: Whether transformers' models are measured too.
        ceilings: What the device does at best; None before that is known.
    """

    device: torch.device
    size: Size
    attns: Sequence[str]
    precision: Precision
    compile: bool
    peer: Path | None = None
    hugging_face: bool = False
    ceilings: Ceilings | None = None

    @property
    def clock(self) -> Clock:
        """A clock for the device."""
        return Clock(self.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations where nothing is trained."""
        return DTYPES[self.precision]

    def engine(self, **changes: Any) -> Engine:
        """How this library trains here, with fields as given."""
        return Engine(**{"precision": self.precision, "compile": self.compile, **changes})


@dataclass(frozen=True, kw_only=True)
class Found:
    """One row's worth of a case.

    Attributes:
        case: What was measured.
        who: Which library, or which implementation.
        figures: Name -> number.
        shape: Batch, length, loops and the like.
        detail: Further lines.
        note: What a reader has to know.
    """

    case: str
    who: str
    figures: Figures
    shape: Mapping[str, Any] = field(default_factory=dict)
    detail: Sequence[Mapping[str, Any]] = ()
    note: str = ""


@dataclass(frozen=True)
class Case:
    """A piece of work that is run, guarded and left out as a whole.

    Attributes:
        name: For progress, for `--only`, and for the row of a case that fails.
        who: Which library, or which implementation.
        run: Does it; rows are kept as they come.
        attn: "gqa", "mla" or "".
        seconds: What it is expected to take; it is skipped where less is left.
    """

    name: str
    who: str
    run: Callable[[], Iterable[Found]]
    attn: str = ""
    seconds: float = CASE_SECONDS

    @property
    def part(self) -> str:
        """Which of its suite's cases it is, whatever rows it finds."""
        return f"{self.name}/{self.who}"


def training_seconds(engine: Engine) -> float:
    """What a case with one training variant is expected to take."""
    return CASE_SECONDS + COMPILE_SECONDS * engine.compile


def rates(work: Work, timing: Timing, ceilings: Ceilings | None) -> dict[str, Figure]:
    """A step's time, and what follows from it: rates, and the share of the device's best."""
    figures = {
        "step": timing.figure(),
        "tokens_per_second": Figure(work.tokens * MS / timing.median, "tokens/s"),
    }
    if work.flops:
        figures["tflops"] = Figure(work.flops * MS / timing.median / 1e12, "TFLOP/s")
        if ceilings is not None:
            floor = ceilings.milliseconds(work.flops)
            figures["floor"] = Figure(floor, "ms")
            figures["share_of_floor"] = Figure(floor / timing.median, "1")
    return figures


def peers(setting: Setting, attn: str) -> list[tuple[Callable[[], Contender], str, float]]:
    """Builders of the contenders beside this library, their names, and extra seconds.

    Each is a call, so that a peer that cannot even be made fails inside its own case.
    """
    cfg = setting.size.config(attn, max_loop_iters=setting.size.loops)
    found: list[tuple[Callable[[], Contender], str, float]] = []
    if setting.peer is not None:
        found.append((_openmythos_05(setting, attn), "open-mythos 0.5.0", 10.0))
    if setting.hugging_face:
        # Late: an optional package is behind them.
        from open_mythos.bench.peers.deepseek import DeepSeekV3  # noqa: PLC0415
        from open_mythos.bench.peers.llama import Llama  # noqa: PLC0415
        from open_mythos.bench.peers.mixtral import Mixtral  # noqa: PLC0415

        where = (cfg, setting.device, setting.dtype)
        if attn == "mla":
            found.append((lambda: DeepSeekV3(*where), "HF DeepSeek-V3", 10.0))
        else:
            found.append((lambda: Llama(*where), "HF Llama", 5.0))
            found.append((lambda: Mixtral(*where), "HF Mixtral", 10.0))
            if setting.compile:
                compiled = (lambda: Llama(*where, compiled=True)), "HF Llama compiled"
                found.append((*compiled, PEER_COMPILE_SECONDS))
    return found


def _openmythos_05(setting: Setting, attn: str) -> Callable[[], Contender]:
    from open_mythos.bench.peers.openmythos_05 import OpenMythos05  # noqa: PLC0415 -- as above

    cfg = setting.size.config(attn, max_loop_iters=setting.size.loops)
    folder = setting.peer
    assert folder is not None
    return lambda: OpenMythos05(folder, cfg, setting.device, setting.precision)


def has_hugging_face() -> bool:
    """Whether transformers is installed."""
    return find_spec("transformers") is not None


def told(error: Exception) -> str:
    """An exception in one line without folders."""
    kind = "out of memory" if isinstance(error, torch.OutOfMemoryError) else type(error).__name__
    line = " ".join(str(error).split())
    return f"{kind}: {FOLDERS.sub('', line)}"[:LONGEST_ERROR]
