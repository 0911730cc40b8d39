"""Who is picked and how much each counts in DeepSeek's mixtures: scores, groups, weights."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from open_mythos.moda.config import ScoreFunction


@dataclass(frozen=True)
class Choice:
    """What is said of N tokens.

    Attributes:
        ids: (N, k) int64, the picked experts.
        weights: (N, k), what each counts.
        shares: (N, E), every expert's score as a share of all, for the balance loss.
    """

    ids: Tensor
    weights: Tensor
    shares: Tensor


def choose(
    logits: Tensor,
    k: int,
    *,
    score: ScoreFunction = "softmax",
    bias: Tensor | None = None,
    groups: int = 1,
    top_groups: int = 1,
    scale: float = 1.0,
) -> Choice:
    """Pick the k best experts within the `top_groups` best groups; weigh them by their scores.

    A group is as good as its best expert (DeepSeek-V2, arXiv 2405.04434), or with a bias as its two
    best together (DeepSeek-V3, 2412.19437). The bias picks experts and groups and never weighs.

    Args:
        logits: (N, E).
        k: Experts per token.
        score: "softmax" over all experts, the weights being the scores; or "sigmoid" of each, the
            weights being the scores over their sum.
        bias: (E,), added to the scores for the choice; None is none.
        groups: Equal groups that neighbouring experts form.
        top_groups: Those that may be picked from.
        scale: Factor on the weights.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    scores = wide.softmax(-1) if score == "softmax" else wide.sigmoid()
    with torch.no_grad():
        rank = scores if bias is None else scores + bias
        if top_groups < groups:
            best = 1 if bias is None else 2
            rank = rank.masked_fill(~_open(rank, groups, top_groups, best), -torch.inf)
        ids = rank.topk(k, dim=-1).indices
    if score == "softmax":
        weights, shares = scores.gather(-1, ids), scores
    else:  # s / sum(s) as a softmax of log s: all scores may underflow without a 0 / 0
        logs = F.logsigmoid(wide)
        weights, shares = logs.gather(-1, ids).softmax(-1), logs.softmax(-1)
    return Choice(ids, (weights * scale).to(logits.dtype), shares)


def _open(rank: Tensor, groups: int, top_groups: int, best: int) -> Tensor:
    """(N, E) boolean: experts whose group is among the best, judged by its `best` largest."""
    grouped = rank.unflatten(-1, (groups, -1))
    worth = grouped.topk(min(best, grouped.shape[-1]), dim=-1).values.sum(-1)
    chosen = worth.topk(top_groups, dim=-1).indices
    allowed = torch.zeros_like(worth, dtype=torch.bool).scatter(-1, chosen, value=True)
    return allowed.unsqueeze(-1).expand_as(grouped).flatten(-2)


def balance_loss(shares: Tensor, load: Tensor) -> Tensor:
    """E / k * sum_e f_e P_e, which is 1 where use is even (DeepSeekMoE, arXiv 2401.06066).

    f_e, the visits of expert e per token, has no gradient; P_e, the mean share of its score, has.

    Args:
        shares: (N, E).
        load: (E,), tokens that visit each expert: N * k in all.
    """
    visits = load.to(shares.dtype)
    return shares.shape[1] / visits.sum() * (visits * shares.mean(0)).sum()
