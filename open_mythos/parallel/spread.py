"""Spread: how one rank's part of a training step becomes the whole step."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from open_mythos.checkpoint.shard_files import read_index
from open_mythos.ops.head_loss import HeadLoss, head_loss
from open_mythos.parallel.division import Division
from open_mythos.parallel.gradients import clip_gradients


if TYPE_CHECKING:
    from open_mythos.checkpoint.sharded import Piece


@dataclass
class Spread:
    """A run of one process, and what the step asks of any other kind.

    Attributes:
        data_rank: Which part of a batch's rows this rank reads.
        data_world: Into how many parts they are divided.
        divisions: Parameters of which this rank holds a part by tensor or expert division, by the
            names that they have in a network that nobody divided.
    """

    data_rank: int = 0
    data_world: int = 1
    divisions: Mapping[str, Division] = field(default_factory=dict)

    def caller(self, model: nn.Module) -> Callable[..., Any]:
        """What runs a forward pass of `model`, so that its gradients meet those of other ranks."""
        return model

    def passing(self, *, last: bool) -> AbstractContextManager[Any]:  # noqa: ARG002
        """Around one forward and backward pass; the step's last one brings the gradients home."""
        return nullcontext()

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over the parts of a batch, in place; queued on the device, not waited for."""
        return numbers

    def head_loss(self, *args: Any, **kwargs: Any) -> HeadLoss:
        """`ops.head_loss.head_loss`, of the head's weight as this rank holds it."""
        return head_loss(*args, **kwargs)

    def clip(self, model: nn.Module, limit: float) -> Tensor:
        """Scale the gradients to a norm of at most `limit` (0 leaves them); the norm before."""
        return clip_gradients(model.parameters(), limit)

    def pieces(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, "Piece"]:
        """What this rank holds of a network and of further tensors, for a checkpoint.

        Args:
            model: The network.
            tensors: Called "KEY/PARAMETER" where they are a parameter's, such as its moments.
        """
        from open_mythos.parallel.pieces import pieces_of  # noqa: PLC0415 -- DCP takes a second

        return pieces_of(model, tensors, self.divisions)

    def blanks(self, model: nn.Module, folder: str | Path) -> dict[str, Tensor]:
        """Room for what a checkpoint holds beside the model, to be filled through `pieces`."""
        from open_mythos.parallel.pieces import blanks_of  # noqa: PLC0415 -- as above

        return blanks_of(model, read_index(folder), self.divisions)

    @property
    def independent(self) -> bool:
        """Whether one rank alone may run passes, with `whole` around them on all."""
        return True

    def whole(self, model: nn.Module) -> AbstractContextManager[Any]:  # noqa: ARG002
        """For the time of a block that all ranks enter, a network whose every method works."""
        return nullcontext()
