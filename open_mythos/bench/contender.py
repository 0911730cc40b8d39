"""What every library under test offers: one step of training, of prefill and of decoding."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from open_mythos.bench.clock import Clock, Step


Result = TypeVar("Result")

LEARNING_RATE = 1e-4
CLIP = 1.0


@dataclass(frozen=True)
class Work:
    """One step, ready to be repeated, and what it stands for.

    Attributes:
        step: Does it once, without waiting for the device.
        tokens: Positions that it trains on, reads or writes.
        flops: FLOPs of its matrix products, causal attention counted once; 0 if not told.
        shape: Batch, length and the like.
        note: What a reader has to know about it.
    """

    step: Step
    tokens: int
    flops: float = 0.0
    shape: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


class Contender(Protocol):
    """A library with a network of one size; nothing is built before a call needs it."""

    @property
    def name(self) -> str:
        """What results call it."""
        ...

    def train(self, batch: int, seq_len: int) -> Work:
        """Forward, backward, clip and optimizer step, and whatever else its training needs."""
        ...

    def prefill(self, batch: int, seq_len: int) -> Work:
        """Logits of the token after each of `batch` prompts."""
        ...

    def decode(self, batch: int, context: int) -> Work:
        """One more sampled token for `batch` rows, `context` positions being cached."""
        ...


def random_ids(vocab_size: int, *shape: int, device: torch.device) -> Tensor:
    """Token ids without any pattern."""
    return torch.randint(0, vocab_size, shape, device=device)


def training_step(model: nn.Module, loss: Callable[[], Tensor]) -> Step:
    """The plain PyTorch training step for a peer: backward, clip, fused AdamW."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, fused=True)

    def step() -> None:
        loss().backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def sampled(logits: Tensor, top_k: int = 50) -> Tensor:
    """(B, V) -> (B, 1): a token at temperature 1 among the `top_k` likeliest."""
    likeliest, ids = logits.float().topk(min(top_k, logits.shape[-1]))
    return ids.gather(1, torch.multinomial(likeliest.softmax(-1), 1))


def halvings(start: int) -> Iterable[int]:
    """start, start // 2, ..., 1."""
    while start >= 1:
        yield start
        start //= 2


def largest_batch(start: int, attempt: Callable[[int], Result], clock: Clock) -> Result:
    """What `attempt` gives at the first of start, start / 2, ... that fits in memory.

    Raises:
        torch.OutOfMemoryError: If a single row does not fit.
    """
    for batch in halvings(start):
        clock.clean()
        try:
            return attempt(batch)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
    raise ValueError(f"a batch of {start} has no halvings")
