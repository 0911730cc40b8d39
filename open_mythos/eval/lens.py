"""The lens over depth: what a text's every position would say after each loop, from one pass."""

from dataclasses import dataclass

import torch
from torch import Tensor

from open_mythos.errors import InputError
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.mode import evaluating


NUMBERS = 1 << 22  # log-probabilities of one piece: 16 MiB in float32, whatever the vocabulary


@dataclass(frozen=True)
class Lens:
    """One row of S tokens through T loops.

    A prediction after loop t is what the whole rest of the network (readout, coda, last norm, head)
    makes of the state there: what it says with `n_loops=t`. Where a position has left the loop by
    an exit, later loops repeat what it left with.

    Attributes:
        tokens: (T, S, k) int64, the likeliest next tokens, the likeliest first.
        probabilities: (T, S, k), theirs.
        following: (T, S - 1), the probability of the token that does follow.
        entropy: (T, S), nats.
        change: (T - 1, S), KL(P_t | P_{t-1}) in nats of loops 2 .. T.
        halting: (T, S), the halting probability; None where the network has none, or nobody asks.
        loops: (S,) int64, loops in which each position took part.
        router_load: (T, E) int64, tokens that each expert served; E is 0 without experts.
        state_rms: (T,), root mean square of the state after each loop.
        state_change: (T,), of what each loop changed of it; None of a network that does not say.
    """

    tokens: Tensor
    probabilities: Tensor
    following: Tensor
    entropy: Tensor
    change: Tensor
    halting: Tensor | None
    loops: Tensor
    router_load: Tensor
    state_rms: Tensor
    state_change: Tensor | None

    @property
    def n_loops(self) -> int:
        """T: loops that ran, fewer than asked for where every position had left."""
        return self.tokens.shape[0]

    @property
    def sound(self) -> bool:
        """Whether all of it are numbers."""
        return bool(self.probabilities.isfinite().all() and self.state_rms.isfinite().all())


@torch.inference_mode()
def look_through(
    model: OpenMythos, ids: list[int], n_loops: int, exit: object = None, top: int = 5
) -> Lens:
    """Read a text once, and see what is predicted after each loop.

    Memory beside the pass: features (T, S, dim), and log-probabilities in pieces of `NUMBERS`.

    Args:
        model: The network; it is put back as it was.
        ids: The text, at least one token.
        n_loops: Loops.
        exit: Where positions leave early, as in a pass.
        top: Likeliest tokens to tell of each prediction.

    Raises:
        InputError: If the model cannot be asked that.
    """
    if top < 1:
        raise InputError(f"top is {top}; ask for at least the likeliest token")
    row = torch.tensor([ids], device=model.embed.weight.device)
    with evaluating(model):
        output = model(
            row, n_loops, exit=exit, read_loops=range(1, n_loops), logits_to_keep=0,
            return_output=True,
        )  # fmt: skip
    ran = output.n_loops
    reads = torch.stack([*output.loop_features, output.features])[:ran, 0]
    count = max(1, NUMBERS // model.cfg.vocab_size)
    pieces = [
        _predictions(model, reads[:, at : at + count], row[0, at + 1 : at + 1 + count], top)
        for at in range(0, len(ids), count)
    ]
    tokens, values, following, entropy, change = (
        torch.cat(parts, dim=1).cpu() for parts in zip(*pieces, strict=True)
    )
    return Lens(
        tokens=tokens,
        probabilities=values,
        following=following,
        entropy=entropy,
        change=change,
        halting=None if output.halting is None else output.halting[:, 0].float().cpu(),
        loops=output.loops_used[0].clamp(max=ran).cpu(),
        router_load=output.router_load.cpu(),
        state_rms=output.state_rms.float().cpu(),
        state_change=None if output.state_change is None else output.state_change.float().cpu(),
    )


def _predictions(
    model: OpenMythos, reads: Tensor, follow: Tensor, top: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of some positions (T, n, dim): the first five attributes of a `Lens`.

    `follow` holds the token behind each; of the row's last position there is none.
    """
    known = len(follow)
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    changes: list[Tensor] = []
    before: Tensor | None = None
    for features in reads:
        logits = model.head(features)
        now = (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)
        p = now.exp()
        best = now.topk(min(top, now.shape[-1]))
        own = now[:known].gather(-1, follow.unsqueeze(-1)).squeeze(-1).exp()
        entropy = -(p * now).sum(-1)
        found.append((best.indices, best.values.exp(), own, entropy))
        if before is not None:
            changes.append((p * (now - before)).sum(-1).clamp(min=0))
        before = now
    nothing = reads.new_zeros(0, reads.shape[1], dtype=torch.float32)
    tokens, values, own, entropy = (torch.stack(parts) for parts in zip(*found, strict=True))
    return tokens, values, own, entropy, torch.stack(changes) if changes else nothing
