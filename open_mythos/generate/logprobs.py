"""Logprobs: what the model thought of the token that was chosen, and of the likeliest others."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities at one token, under the softmax of the logits as the model gave them.

    Penalties, bias, temperature and filters play no part: the same question has the same answer
    however the token was drawn, as in OpenAI's interface.

    Attributes:
        token: The token chosen.
        logprob: Its log-probability, in nats.
        top: The likeliest tokens with theirs, the likeliest first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def token_logprobs(
    logits: Tensor, tokens: Tensor, wanted: Sequence[int | None]
) -> list[TokenLogprobs | None]:
    """What each row wants to be told of its token; waits for the device where a row does.

    Args:
        logits: (B, V), as the model gave them.
        tokens: (B,) int64, chosen.
        wanted: Alternatives of each row, as `SamplingParams.logprobs`; None is no report.
    """
    asking = [i for i, count in enumerate(wanted) if count is not None]
    if not asking:
        return [None] * len(wanted)
    at = torch.tensor(asking, device=logits.device)
    most = min(max(count or 0 for count in wanted), logits.shape[-1])
    x, chosen = logits[at], tokens[at]
    scores = (x if x.dtype == torch.float64 else x.float()).log_softmax(-1)
    best = scores.topk(most)
    ids, values = best.indices.tolist(), best.values.tolist()
    own = scores.gather(-1, chosen.unsqueeze(-1)).squeeze(-1).tolist()
    told: list[TokenLogprobs | None] = [None] * len(wanted)
    for n, (i, token) in enumerate(zip(asking, chosen.tolist(), strict=True)):
        top = zip(ids[n], values[n], strict=True)
        told[i] = TokenLogprobs(token, own[n], tuple(top)[: wanted[i]])
    return told
