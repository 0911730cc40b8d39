"""View: where the positions of a call stand, and which others they may look at."""

from dataclasses import dataclass

import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.model.inputs import check_documents, positions, real_keys
from open_mythos.nn.attention.context import AttentionContext, document_mask, padding_mask
from open_mythos.nn.cache import KVCache
from open_mythos.nn.rotary import rotary


@dataclass(frozen=True)
class View:
    """What the layers are told of the positions of a call.

    Attributes:
        context: Rotary tables and visibility.
        valid: (B, cached + T) boolean, which keys are real; None means all of them.
        real: (B, T) the same of the new positions.
        where: (T,) or (B, T) int64, positions.
    """

    context: AttentionContext
    valid: Tensor | None
    real: Tensor | None
    where: Tensor


def look(
    ids: Tensor,
    start: int,
    cache: KVCache | None,
    cfg: MythosConfig,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    documents: Tensor | None = None,
) -> View:
    """The view of a call, from what its caller said.

    Args:
        ids: (B, T).
        start: Index of the first new position.
        cache: What was read before.
        cfg: The model's config.
        attention_mask: (B, T) or (B, cached + T), 0 at padding.
        position_ids: (T,) or (B, T), instead of counting real tokens.
        documents: (B, T), the document of each position.

    Raises:
        InputError: If one of them does not fit.
    """
    past = 0 if cache is None else cache.length
    known = None if cache is None else cache.valid
    valid = real_keys(attention_mask, known, ids, past, cached=cache is not None)
    documents = check_documents(documents, ids, cached=cache is not None)
    mask = None if documents is None else document_mask(documents)
    if mask is not None and position_ids is None:
        where = _within(mask, valid)
    else:
        where = positions(position_ids, valid, start, ids, cfg)
    if valid is not None:
        real = padding_mask(valid, ids.shape[1])
        mask = real if mask is None else mask & real
    tables = rotary(where, cfg.rope_dim, cfg.rope_theta)
    new = None if valid is None else valid[:, past:]
    return View(AttentionContext(tables, mask=mask), valid, new, where)


def _within(together: Tensor, valid: Tensor | None) -> Tensor:
    """Positions (B, S) inside the documents that `together` (B, 1, S, S) tells apart.

    Padding does not count: the first real token of a document has position 0.
    """
    before = together[:, 0].tril()
    if valid is not None:
        before = before & valid.unsqueeze(1)
    return (before.sum(-1, dtype=torch.int64) - 1).clamp(min=0)
