"""What every attention layer of a call shares: positions and who may look where."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from open_mythos.errors import ShapeError
from open_mythos.nn.cut import span
from open_mythos.nn.places import Places
from open_mythos.nn.rotary import Rotary, rotary_from_complex


@dataclass(frozen=True)
class AttentionContext:
    """Rotary tables of the call's positions and its visibility.

    Attributes:
        rotary: Tables of the T new positions.
        causal: Whether a position sees itself and earlier ones only.
        mask: Further limit, boolean (True may look) or additive, (B or 1, 1, T, S); S counts the
            cached positions too.
        lengths: (B,) keys of each row that are written, the new one included, where the cache
            shows its whole capacity (decoding in fixed shapes); None elsewhere.
        starts: (B,) first real key of each row beside `lengths`; None is the first of all.
        places: Which of the T positions of B rows ask, side by side, where others have left;
            `rotary` is theirs, `mask` still that of all. None is all of them, row by row.
    """

    rotary: Rotary
    causal: bool = True
    mask: Tensor | None = None
    lengths: Tensor | None = None
    starts: Tensor | None = None
    places: Places | None = None

    def at(self, places: Places) -> "AttentionContext":
        """The context of some positions alone, which see all that they saw among the others."""
        cos, sin = self.rotary.cos, self.rotary.sin
        if cos.dim() == 3:
            shape = (len(places.counts), places.length, -1)
            tables = Rotary(places.take(cos.expand(shape)), places.take(sin.expand(shape)))
        else:
            tables = Rotary(cos[places.where].unsqueeze(0), sin[places.where].unsqueeze(0))
        return replace(self, rotary=tables, places=places)

    def last(self, count: int) -> "AttentionContext":
        """That of the last `count` of the new positions, which see all they saw among the others.

        Not for fixed shapes, where there is one new position.
        """
        assert self.lengths is None
        mask = None if self.mask is None else self.mask[..., -count:, :]
        return replace(self, rotary=self.rotary.last(count), mask=mask)

    def part(self, rows: slice | Tensor) -> "AttentionContext":
        """The context of some rows, a slice or an index (N,); what all rows share stays."""

        def of(t: Tensor) -> Tensor:
            if t.shape[0] == 1:
                return t
            return span(t, rows) if isinstance(rows, slice) else t[rows]

        tables = self.rotary
        if tables.cos.dim() == 3:
            tables = Rotary(of(tables.cos), of(tables.sin))
        return replace(self, rotary=tables, mask=None if self.mask is None else of(self.mask))


def padding_mask(valid: Tensor, length: int) -> Tensor:
    """Visibility (B, 1, T, S) of the last `length` positions when some keys are padding.

    Args:
        valid: (B, S) boolean, True where a key is real.
        length: T, the number of new positions.

    A padded position may look at itself, so that no row of the softmax is empty; its output is
    never read by a real one.
    """
    s = valid.shape[1]
    keys = torch.arange(s, device=valid.device)
    itself = keys[s - length :, None] == keys
    return valid[:, None, None, :] | itself


def document_mask(documents: Tensor) -> Tensor:
    """Visibility (B, 1, S, S) of positions that look inside their own document (B, S) only."""
    return (documents.unsqueeze(-1) == documents.unsqueeze(-2)).unsqueeze(1)


def legacy_context(
    freqs_cis: Tensor, mask: Tensor | None, length: int, past: int
) -> AttentionContext:
    """The context behind the call form of open-mythos 0.5.0: complex table, mask tensor or None.

    Args:
        freqs_cis: Complex table whose first `length` rows are the input's positions.
        mask: Additive or boolean, (.., T, T) or (.., T, past + T); None hides nothing.
        length: T.
        past: Cached positions; a mask of width T leaves them visible.

    Raises:
        ShapeError: If table or mask do not fit.
    """
    tables = rotary_from_complex(freqs_cis, length)
    if mask is None:
        return AttentionContext(tables, causal=False)
    if mask.shape[-1] == length and past:
        visible = True if mask.dtype == torch.bool else 0.0
        mask = torch.cat((mask.new_full((*mask.shape[:-1], past), visible), mask), dim=-1)
    if mask.shape[-2] != length or mask.shape[-1] != past + length:
        raise ShapeError(
            f"the mask is {tuple(mask.shape)}; {length} new and {past} cached positions need "
            f"(..., {length}, {past + length})"
        )
    return AttentionContext(tables, causal=False, mask=mask)
