"""Pages: keys and values in blocks that any request may own, and how positions look at them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.cache import Entries, LookedUp
from open_mythos.nn.upload import upload
from open_mythos.ops.paged import Blocks, reads_blocks


if TYPE_CHECKING:
    from open_mythos.nn.attention.gqa import GroupedAttention
    from open_mythos.nn.attention.mla import MLAttention


@dataclass(frozen=True)
class Glance:
    """Neighbouring rows of a call that look at copies of equally many blocks.

    Attributes:
        rows: Which of the call's.
        blocks: (rows, M) int64, the blocks that each looks at; (1, M) where all look at the same.
        context: Who sees which of their positions.
    """

    rows: slice
    blocks: Tensor
    context: AttentionContext

    @property
    def together(self) -> bool:
        """Whether the rows are positions of one request."""
        return self.blocks.shape[0] == 1 and self.rows.stop - self.rows.start > 1


@dataclass(frozen=True)
class Reach:
    """Neighbouring rows of a call whose blocks are read where they lie.

    Attributes:
        rows: Which of the call's.
        blocks: What they look at, its shift left at 0.
    """

    rows: slice
    blocks: Blocks


@dataclass(frozen=True)
class View:
    """Where the positions of a call write, and where they look.

    Attributes:
        write: (N,) int64, the place inside of a slot: block * block_size + offset.
        glances: All rows, in order.
    """

    write: Tensor
    glances: Sequence[Glance | Reach]


class PagedSlot(LookedUp):
    """A layer's part of the pages, for one call: written to and looked at through block tables."""

    def __init__(self, store: Entries, shift: Tensor, size: int, view: View) -> None:
        """Blocks of a layer or a loop.

        Args:
            store: Entries (slots * blocks, block_size, ...).
            shift: (N,) int64, the number of block 0 of each row's slot; or (1,), for all rows.
            size: Positions of a block.
            view: Where the call's rows write and look.
        """
        self.store, self.length = store, 0
        self.shift, self.view = shift, view
        self.where = view.write + shift * size

    def look(
        self, attn: "GroupedAttention | MLAttention", x: Tensor, context: AttentionContext
    ) -> Tensor:
        """What rows (N, 1, dim), one position each, see of their requests, themselves included."""
        flat = {name: store.flatten(0, 1) for name, store in self.store.items()}
        if attn.fills(x):
            room = {n: s.unsqueeze(0).expand(len(x), *s.shape) for n, s in flat.items()}
            q = attn.fill(x, context.rotary, room, self.where)
        else:
            q, new = attn.project(x, context.rotary)
            for name, tensor in new.items():
                flat[name].index_copy_(0, self.where, tensor.squeeze(1))
        said = [self._say(attn, q[glance.rows], glance) for glance in self.view.glances]
        return said[0] if len(said) == 1 else torch.cat(said)

    def _say(
        self, attn: "GroupedAttention | MLAttention", q: Tensor, glance: Glance | Reach
    ) -> Tensor:
        shift = self.shift if self.shift.shape[0] == 1 else self.shift[glance.rows]
        if isinstance(glance, Reach):
            return attn.mix_blocks(q, self.store, replace(glance.blocks, shift=shift))
        blocks = glance.blocks + shift[: glance.blocks.shape[0]].unsqueeze(1)
        seen = {
            name: store.index_select(0, blocks.flatten()).view(
                blocks.shape[0], -1, *store.shape[2:]
            )
            for name, store in self.store.items()
        }
        if glance.together:
            return attn.mix(q.transpose(0, 1), seen, glance.context).transpose(0, 1)
        return attn.mix(q, seen, glance.context)


def nowhere(blocks: int, size: int) -> int:
    """Where in a slot of so many blocks is written what nobody looks at."""
    return (blocks + 1) * size


class Pages:
    """The cache of all requests: blocks of `size` positions, in every layer and in every loop.

    Block 0 is never written: tables are filled up with it. Behind the last block is one that is
    never looked at: who must write somewhere writes there.

    Attributes:
        reached: Whether kernels read blocks where they lie for single positions, and copy entries
            from loop to loop; else copies are made of blocks.
        pieces_reach: Whether pieces of prompts do.
        around: Entries of prelude and coda, (layers * (blocks + 2), size, ...).
        inside: Entries of the core's layers by loop, (slots * (blocks + 2), size, ...).
        slots: Loops that have keys of their own.
    """

    def __init__(
        self, cfg: MythosConfig, blocks: int, size: int, n_loops: int, like: Tensor
    ) -> None:
        """Zeros like `like`: what nobody wrote is seen, at weight 0."""
        self.cfg, self.size, self.per_slot = cfg, size, blocks + 2
        self.slots = cfg.loop_slots(n_loops)
        layers = cfg.prelude_layers + cfg.coda_layers

        def room(slots: int, width: tuple[int, ...]) -> Tensor:
            return like.new_zeros(slots * self.per_slot, size, *width)

        self.around: Entries = {n: room(layers, w) for n, w in cfg.cache_widths.items()}
        self.inside: Entries = {n: room(self.slots, w) for n, w in cfg.loop_widths.items()}
        self.device = like.device
        self.reached = reads_blocks(*self.around.values(), *self.inside.values())
        # Latents are cheaper raised once for a piece than looked at by each of its positions.
        self.pieces_reach = self.reached and cfg.attn_type == "gqa"
        shifts = torch.arange(max(layers, 1), device=like.device) * self.per_slot
        self._layers = list(shifts.unsqueeze(1).unbind())
        loops = torch.arange(max(self.slots, 1), device=like.device) * self.per_slot
        self._loops = list(loops.unsqueeze(1).unbind())

    @property
    def block_bytes(self) -> int:
        """Bytes that one block takes in all layers and loops."""
        stores = (*self.around.values(), *self.inside.values())
        return sum(t.numel() * t.element_size() for t in stores) // self.per_slot

    def width(self, blocks: int) -> int:
        """Blocks to look at where some look at so many, of few numbers: a shape of calls."""
        return 1 if self.reached else 1 << (blocks - 1).bit_length()

    def prelude(self, layer: int, view: View) -> PagedSlot:
        """A layer before the loop."""
        return PagedSlot(self.around, self._layers[layer], self.size, view)

    def coda(self, layer: int, view: View) -> PagedSlot:
        """A layer behind the loop."""
        return self.prelude(self.cfg.prelude_layers + layer, view)

    def loop(self, loops: Tensor, view: View) -> PagedSlot:
        """The core, where the rows stand at loops (N,) int64, from 0.

        Where all loops look at the first one's keys, only rows in their first loop write theirs.
        """
        if self.cfg.kv == "per_loop":
            return PagedSlot(self.inside, loops * self.per_slot, self.size, view)
        first = torch.where(loops == 0, view.write, nowhere(self.per_slot - 2, self.size))
        return PagedSlot(self.inside, loops.new_zeros(1), self.size, View(first, view.glances))

    def loop_at(self, loop: int, view: View) -> PagedSlot:
        """The core, where all rows stand at one loop, from 0."""
        if self.cfg.kv == "per_loop":
            return PagedSlot(self.inside, self._loops[loop], self.size, view)
        if loop:
            beyond = torch.full_like(view.write, nowhere(self.per_slot - 2, self.size))
            view = View(beyond, view.glances)
        return PagedSlot(self.inside, self._loops[0], self.size, view)

    def deepen(self, left: Sequence[tuple[int, int, int]]) -> None:
        """Show what positions wrote last in the loops that they leave out, too.

        Args:
            left: Of each, block * size + offset, the loops that it has done (at least 1), and
                those that it would have done.
        """
        if self.cfg.kv != "per_loop":
            return
        stride = self.per_slot * self.size
        pairs = [
            ((done - 1) * stride + place, loop * stride + place)
            for place, done, end in left
            for loop in range(done, end)
        ]
        if not pairs:
            return
        source, target = upload(list(zip(*pairs, strict=True)), self.device).unbind()
        for store in self.inside.values():
            flat = store.flatten(0, 1)
            flat.index_copy_(0, target, flat.index_select(0, source))

    def deepen_rows(self, place: Tensor, done: Tensor, end: Tensor) -> None:
        """`deepen` of rows that the device knows of: (N,) each; nothing where `done` is 0."""
        if self.cfg.kv != "per_loop" or self.slots == 1:
            return
        if self.reached:
            from open_mythos.kernels.deepen import deepen  # noqa: PLC0415 -- triton is optional

            for store in self.inside.values():
                deepen(store, self.slots, place, done, end)
            return
        stride = self.per_slot * self.size
        loops = torch.arange(1, self.slots, device=self.device)
        inside = (loops >= done.unsqueeze(1)) & (loops < end.unsqueeze(1))
        inside &= (done > 0).unsqueeze(1)
        beyond = nowhere(self.per_slot - 2, self.size)
        target = loops * stride + torch.where(inside, place.unsqueeze(1), beyond)
        source = ((done - 1).clamp(min=0) * stride + place).unsqueeze(1).expand_as(target)
        if self.device.type == "cpu":  # whose numbers the host may read: copy no more than it must
            source, target = source[inside], target[inside]
        for store in self.inside.values():
            flat = store.flatten(0, 1)
            flat.index_copy_(0, target.flatten(), flat.index_select(0, source.flatten()))

    def scrub(self, blocks: Sequence[int]) -> None:
        """Zeros into blocks that hold what is no number: at weight 0 it would still be none."""
        if not blocks:
            return
        which = upload(blocks, self.device)
        for store in (*self.around.values(), *self.inside.values()):
            store.view(-1, self.per_slot, *store.shape[1:]).index_fill_(1, which, 0.0)
