"""Blocks: which parts of the cache are whose, and which hold what was read before."""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b


def root_name(*parts: object) -> bytes:
    """The name of an empty text; what is cached of texts with other roots is never shared."""
    return blake2b(repr(parts).encode(), digest_size=16).digest()


def block_name(before: bytes, tokens: Sequence[int]) -> bytes:
    """The name of a full block: of its tokens and all before them.

    A digest, not Python's hash: who finds two texts of one name would read another's cache.
    """
    return blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()


class BlockPool:
    """Blocks 1 .. count: free, owned by one or more requests, or idle: nobody's, but still named.

    An idle block is as good as a free one, and is given up when no other is left, the one that was
    used longest ago first. Block 0 is nobody's, and empty.

    Attributes:
        count: All blocks but block 0.
        evicted: Idle blocks given up so far.
    """

    def __init__(self, count: int) -> None:
        """All blocks are free."""
        self.count, self.evicted = count, 0
        self._free = list(range(count, 0, -1))
        self._owners = [0] * (count + 1)
        self._block: dict[bytes, int] = {}
        self._name: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Blocks that `take` can give."""
        return len(self._free) + len(self._idle)

    @property
    def idle(self) -> int:
        """Blocks that nobody owns and that a text may find again."""
        return len(self._idle)

    @property
    def used(self) -> int:
        """Blocks that somebody owns."""
        return self.count - self.available

    def owners(self, block: int) -> int:
        """Requests that own a block."""
        return self._owners[block]

    def take(self) -> int | None:
        """A block to write into, or None where all are owned."""
        if not self._free:
            if not self._idle:
                return None
            oldest, _ = self._idle.popitem(last=False)
            del self._block[self._name.pop(oldest)]
            self.evicted += 1
            self._free.append(oldest)
        block = self._free.pop()
        self._owners[block] = 1
        return block

    def find(self, name: bytes) -> int | None:
        """The block of that name, without owning it."""
        return self._block.get(name)

    def share(self, name: bytes) -> int | None:
        """The block of that name with one owner more, or None if it is not here."""
        block = self._block.get(name)
        if block is not None:
            self._owners[block] += 1
            self._idle.pop(block, None)
        return block

    def publish(self, block: int, name: bytes) -> None:
        """Let a full block be found; nothing happens where another has that name already."""
        if name not in self._block and block not in self._name:
            self._block[name] = block
            self._name[block] = name

    def forget_all(self) -> None:
        """Let no text find what others have read; who owns blocks keeps them."""
        self._free.extend(self._idle)
        self._idle.clear()
        self._block.clear()
        self._name.clear()

    def disown(self, blocks: Sequence[int]) -> list[int]:
        """Let no text find these blocks; those that have no second owner."""
        for block in blocks:
            name = self._name.pop(block, None)
            if name is not None:
                del self._block[name]
        return [block for block in blocks if self._owners[block] == 1]

    def release(self, blocks: Sequence[int]) -> None:
        """One owner less of each, the last first: the end of a text is given up before its start.

        Raises:
            ValueError: If somebody gives back what he does not own.
        """
        for block in reversed(blocks):
            if self._owners[block] < 1:
                raise ValueError(f"block {block} has no owner")
            self._owners[block] -= 1
            if self._owners[block]:
                continue
            if block in self._name:
                self._idle[block] = None
            else:
                self._free.append(block)
