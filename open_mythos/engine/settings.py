"""EngineConfig: how much an engine holds and runs at once, checked when made."""

from dataclasses import dataclass

from open_mythos.errors import ConfigError


# Positions of prompts beyond which capturing gains nothing: running takes longer.
CAPTURED = 8192


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of an engine; everything that it allocates follows from them and the model's config.

    Attributes:
        blocks: Blocks of the cache. One holds `block_size` positions in every layer and loop.
        block_size: Positions of a block: what requests share is counted in whole ones.
        rows: Requests that run at once; each has room for one position in the loop.
        chunk: Prompt positions in the loop at once, beside the rows: longer prompts are read in
            pieces of at most so many, between which others go on.
        n_loops: Most loops that a request may ask for, and what it gets by default; None is the
            model's max_loop_iters.
        gather: Share of those under way that must have left the loop before they go on: prelude
            and coda cost little more for many than for few, and who waits for them does not loop.
        stride: Loops that single positions run before the host is told who has left: more waste
            loops on those that have, and spare waiting for the device.
        queue: Requests that may wait; more are refused.
        share_prefixes: Whether prompts that start alike share blocks.
        buckets: Numbers of positions that a call is filled up to, ascending: shapes of which there
            are few. Empty: calls are as large as what they are for. None: `few` on a GPU, and empty
            elsewhere.
        graphs: Whether calls of those sizes are captured as CUDA graphs; None: on a GPU, unless
            somebody hooked the model.
        resident: Calls that are launched before the host has read what the first of them said,
            for rows that need nobody between two tokens; 0: all rows wait for the host. None: 2
            where calls are captured, else 0.
        prompts_at_once: Whether a piece of a prompt passes all its loops in one step, without the
            host, positions that leave dropping out on the device. Else it loops beside the others,
            whom it keeps waiting for one loop at a time. None: where rows stay on the device, and
            do not wait.
    """

    blocks: int = 1024
    block_size: int = 16
    rows: int = 64
    chunk: int = 256
    n_loops: int | None = None
    gather: float = 0.25
    stride: int = 1
    queue: int = 1024
    share_prefixes: bool = True
    buckets: tuple[int, ...] | None = None
    graphs: bool | None = None
    resident: int | None = None
    prompts_at_once: bool | None = None

    def __post_init__(self) -> None:
        for name in ("blocks", "block_size", "rows", "chunk", "stride", "queue"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"engine.{name} is {value!r}; it must be an int of at least 1")
        ahead = self.resident
        if ahead is not None and (isinstance(ahead, bool) or not isinstance(ahead, int)):
            raise ConfigError(f"engine.resident is {ahead!r}; it must be an int, or None")
        if ahead is not None and ahead < 0:
            raise ConfigError(f"engine.resident is {ahead}; it must be at least 0, or None")
        loops = self.n_loops
        if loops is not None and (isinstance(loops, bool) or not isinstance(loops, int)):
            raise ConfigError(f"engine.n_loops is {loops!r}; it must be an int, or None")
        if loops is not None and loops < 1:
            raise ConfigError(f"engine.n_loops is {loops}; it must be at least 1, or None")
        if not 0.0 <= self.gather <= 1.0:
            raise ConfigError(f"engine.gather is {self.gather}; it must lie in [0, 1]")
        if self.chunk < self.block_size:
            raise ConfigError(
                f"engine.chunk is {self.chunk}, block_size {self.block_size}; a piece of a prompt "
                "is at least one block: raise the one or lower the other"
            )
        sizes = self.buckets or ()
        if list(sizes) != sorted({size for size in sizes if size > 0}):
            raise ConfigError(
                f"engine.buckets is {self.buckets}; it must be ascending numbers of at least 1"
            )

    @property
    def lanes(self) -> int:
        """Positions that may be in the loop at once."""
        return self.rows + self.chunk

    def bucket(self, count: int) -> int:
        """What a call of `count` positions is filled up to."""
        return next((size for size in self.buckets or () if size >= count), count)

    @property
    def few(self) -> tuple[int, ...]:
        """Buckets for single positions of every row: powers of two, then multiples of 8."""
        return tuple(sorted({1, 2, 4, *range(8, self.rows, 8), self.rows}))

    def piece_bucket(self, count: int) -> int | None:
        """What a call of `count` positions of prompts is filled up to; None: it is left alone."""
        if count > min(self.chunk, CAPTURED):
            return None
        step = max(16, 1 << max((count - 1).bit_length() - 3, 0))  # at most a quarter is filling
        return min(-(-count // step) * step, self.chunk)
