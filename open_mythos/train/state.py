"""TrainState: everything that changes during a run; what is not in it is not resumed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from open_mythos.errors import CheckpointError
from open_mythos.parallel.spread import Spread
from open_mythos.train.curriculum import Progress
from open_mythos.train.loss_scale import LossScale
from open_mythos.train.precision import Working
from open_mythos.train.spikes import Spikes


RNG, GUARD = "rng", "guard"
# The counters' file in a checkpoint.
STATE_FILE = "state.json"


@dataclass
class TrainState:
    """A run between two steps. The step function is its one writer.

    Attributes:
        model: The network, on its device, in float32: what is learnt, saved and resumed.
        working: What runs: the network itself, or its 16-bit copy.
        optimizer: Its optimizer, over named parameters.
        device: Where both live.
        step: Steps done; the next step draws its batch and depth from (seed, step).
        tokens: Positions seen.
        curriculum: Level, and running accuracy on it.
        courses: The same for each thing by name that a source gives in turn (`Courses`); those that
            have not begun stand where `curriculum` does.
        skipped: Steps so far that moved no parameter: not finite, or spikes.
        skipped_in_a_row: Non-finite ones since the last finite step, which no loss scale mends.
        spikes: The usual gradient norm, where the recipe skips what is far above it.
        spread: This rank's part in a step.
        n_parameters: Of the whole network, tied ones once, whatever part this rank holds.
    """

    model: nn.Module
    optimizer: Optimizer
    device: torch.device
    step: int = 0
    tokens: int = 0
    curriculum: Progress = field(default_factory=Progress)
    courses: dict[str, Progress] = field(default_factory=dict)
    skipped: int = 0
    skipped_in_a_row: int = 0
    spikes: Spikes | None = None
    spread: Spread = field(default_factory=Spread)
    n_parameters: int = 0
    working: Working = field(init=False)

    def __post_init__(self) -> None:
        self.working = Working(self.model)

    def progress(self, course: str) -> Progress:
        """Where a course stands; "" is the curriculum of a source that has none."""
        return self.courses.get(course, self.curriculum)

    def progressed(self, course: str, progress: Progress) -> None:
        """Keep where a course stands now."""
        if course:
            self.courses[course] = progress
        else:
            self.curriculum = progress

    def counters(self) -> dict[str, Any]:
        """What JSON can hold of the state."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "curriculum": asdict(self.curriculum),
            "courses": {name: asdict(progress) for name, progress in self.courses.items()},
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def load_counters(self, values: dict[str, Any]) -> None:
        """Take back what `counters` gave.

        Raises:
            CheckpointError: If a value is missing.
        """
        try:
            self.step = int(values["step"])
            self.tokens = int(values["tokens"])
            self.curriculum = Progress(**values["curriculum"])
            saved = values.get("courses", {})  # which files from before there were any lack
            self.courses = {name: Progress(**progress) for name, progress in saved.items()}
            self.skipped = int(values["skipped"])
            self.skipped_in_a_row = int(values["skipped_in_a_row"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the saved state lacks or misstates {error}") from None

    def tensors(self) -> dict[str, Tensor]:
        """The optimizer's tensors, the guards' and the generators' states, by name."""
        guards = {
            f"{GUARD}/{name}/{part.name}": getattr(guard, part.name)
            for name, guard in self._guards().items()
            for part in fields(guard)
        }
        return {**optimizer_tensors(self.optimizer), **guards, **capture_rng(self.device)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave.

        A guard that was not saved, as of a run that "auto" gave another precision on another
        device, starts anew.

        Raises:
            CheckpointError: If the optimizer that was saved is over other parameters.
        """
        special = (f"{RNG}/", f"{GUARD}/")
        moments = {k: v for k, v in tensors.items() if not k.startswith(special)}
        load_optimizer_tensors(self.optimizer, moments)
        for name, guard in self._guards().items():
            for part in fields(guard):
                saved = tensors.get(f"{GUARD}/{name}/{part.name}")
                if saved is not None:
                    setattr(guard, part.name, saved.to(self.device))
        restore_rng({k: v for k, v in tensors.items() if k.startswith(f"{RNG}/")}, self.device)

    def _guards(self) -> dict[str, LossScale | Spikes]:
        found = {"loss_scale": self.working.loss_scale, "spikes": self.spikes}
        return {name: guard for name, guard in found.items() if guard is not None}


# -- optimizer -----------------------------------------------------------------------------------


def parameter_names(optimizer: Optimizer) -> dict[int, str]:
    """The optimizer's own parameter numbers, with the names they were given."""
    return {
        number: name
        for group in optimizer.state_dict()["param_groups"]
        for number, name in zip(group["params"], group["param_names"], strict=True)
    }


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Optimizer state as "exp_avg/embed.weight" -> tensor: by name, so that order may change."""
    names = parameter_names(optimizer)
    return {
        f"{key}/{names[number]}": value
        for number, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }


def load_optimizer_tensors(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimizer the state that `optimizer_tensors` took from one like it.

    A parameter without saved state has never had a gradient, and starts without one again.

    Raises:
        CheckpointError: On state of a parameter that this optimizer does not have.
    """
    numbers = {name: number for number, name in parameter_names(optimizer).items()}
    state: dict[int, dict[str, Tensor]] = {}
    for label, tensor in tensors.items():
        key, _, name = label.partition("/")
        if name not in numbers:
            raise CheckpointError(
                f"the checkpoint has optimizer state for {name!r}, which this model has not; "
                "it belongs to another recipe"
            )
        state.setdefault(numbers[name], {})[key] = tensor
    document = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": document["param_groups"]})


# -- random numbers ------------------------------------------------------------------------------


def capture_rng(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators that dropout draws from: the CPU's and the device's own."""
    states = {f"{RNG}/cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[f"{RNG}/{device.type}"] = torch.get_device_module(device).get_rng_state(device)
    return states


def restore_rng(states: dict[str, Tensor], device: torch.device) -> None:
    """Put the generators of the CPU and of `device` back; states of another kind are left out.

    A run that moves from one kind of device to another cannot go on bit for bit anyway.
    """
    for label, state in states.items():
        kind = label.partition("/")[2]
        if kind == "cpu":
            torch.set_rng_state(state.cpu())
        elif kind == device.type:
            torch.get_device_module(device).set_rng_state(state.cpu(), device)


@contextmanager
def own_rng(device: torch.device) -> Iterator[None]:
    """Let the block draw and seed as it likes; the caller's generators come back as they were."""
    before = capture_rng(device)
    try:
        yield
    finally:
        restore_rng(before, device)
