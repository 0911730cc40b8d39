"""Decoder: tokens from a cache of fixed shapes, one captured CUDA graph per token on a GPU."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FunctionType
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import InputError
from open_mythos.generate.sampling import Sampling, pick
from open_mythos.nn.cache import KVCache
from open_mythos.nn.static_cache import StaticCache
from open_mythos.ops.sample import largest, sample


# Prompt positions, over all rows, that one pass reads: enough to fill a GPU, bounded in memory.
PREFILL_TOKENS = 65536
# Passes before capture: kernels are compiled and libraries pick their algorithms in them.
WARM_UP = 2
# Decoders that a model keeps: each holds a cache and a graph.
KEPT = 2
COMPILER = "inductor"  # of compiled steps
# How Inductor writes a step for a CPU: products and sums in one instruction, and what lies between
# its kernels in C++, too (dim 512, bfloat16, two cores: 6.9 ms a token, 6.6, and with both 5.6).
ON_CPU: dict[str, str | bool] = {
    "cpp.enable_floating_point_contract_flag": "fast",
    "cpp_wrapper": True,
}


class StaticModel(Protocol):
    """What decoding in fixed shapes needs of a network."""

    cfg: MythosConfig

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """An empty cache on the model's device, in its dtype."""
        ...

    def new_static_cache(
        self, batch: int, capacity: int, n_loops: int, *, compiled: bool = False
    ) -> StaticCache:
        """An empty cache in fixed shapes, with what a compiled step reads."""
        ...

    def refresh(self, cache: StaticCache) -> None:
        """Bring what the cache keeps of the weights up to date."""
        ...

    def decode(self, token: Tensor, cache: StaticCache, *, starts: Tensor | None = None) -> Tensor:
        """Logits (B, vocab) after one more token per row."""
        ...

    def __call__(
        self,
        ids: Tensor,
        n_loops: int | None = None,
        kv_cache: KVCache | None = None,
        *,
        attention_mask: Tensor | None = None,
        logits_to_keep: int | None = None,
    ) -> Tensor:
        """Logits of the new positions."""
        ...


class Decoder:
    """Reads prompts, then gives one token per row and step, all in shapes fixed when it is made.

    On a GPU a step is one CUDA graph: embedding, prelude, every loop, coda, head and sampling,
    launched at once; elsewhere the same step runs eagerly, or compiled if asked for. All give the
    same tokens. (More than 8 rows are filled up to a multiple of 8 by `generate`, which then draws
    other numbers.)
    """

    def __init__(  # noqa: PLR0913 -- everything that a captured graph is fixed to
        self,
        model: StaticModel,
        batch: int,
        capacity: int,
        n_loops: int | None = None,
        sampling: Sampling | None = None,
        generator: torch.Generator | None = None,
        *,
        padded: bool = False,
        graph: bool | None = None,
        compiled: bool = False,
        told: bool = False,
        prompt: int | None = None,
    ) -> None:
        """Room for `batch` rows of `capacity` positions.

        Args:
            model: The network, in evaluation mode.
            batch: Rows.
            capacity: Positions, prompt and new ones together.
            n_loops: Loops per token; None is the config's max_loop_iters.
            sampling: How tokens are drawn; None is greedily.
            generator: Source of randomness; None is torch's own.
            padded: Whether prompts may be padded on the left.
            graph: Capture a CUDA graph; None does where the model is on a CUDA device.
            compiled: Compile the step where no graph is captured: on a CPU a token then takes a
                fifth of the time, and the first step waits for the compiler, 30 to 100 s where its
                own cache on disk is empty and 5 to 11 s otherwise. It pays from some thousands of
                tokens.
                Like a graph it is bound to the weights' dtype and place; values may change.
            told: Whether the caller chooses the tokens (`follow`), from `logits`, by rules that no
                graph could hold; nothing is drawn then.
            prompt: Positions of prompts whose reading is captured too, the first time that one
                without padding comes: worth it where prompts of one length are read again and
                again and launches are what takes time. The graph keeps the memory of a pass.

        Raises:
            InputError: If both a graph and a compiled step are asked for, or prompts are to be
                captured that are read in several passes.
        """
        self.model: StaticModel | None = model
        self.generator = generator
        self.n_loops = model.cfg.max_loop_iters if n_loops is None else n_loops
        self.sampling = Sampling(temperature=0.0) if sampling is None else sampling
        self.cache = model.new_static_cache(batch, capacity, self.n_loops, compiled=compiled)
        device = self.cache.position.device
        self.token = torch.zeros(batch, dtype=torch.int64, device=device)
        self.starts = torch.zeros_like(self.token) if padded else None
        self.told, self.logits = told, torch.empty(0, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self._fast = _compiled(Decoder._think, device) if compiled else None
        if graph is None:
            graph = device.type == "cuda" and not compiled
        if graph and compiled:
            raise InputError(
                "a step is captured or compiled, not both; leave graph or compiled out"
            )
        if prompt is not None and prompt * batch > PREFILL_TOKENS:
            raise InputError(
                f"prompt is {prompt} for {batch} rows; at most {PREFILL_TOKENS} positions in all "
                "are read in one pass and can be captured: leave prompt out"
            )
        self._prompt = prompt if graph else None
        self._reading: tuple[torch.cuda.CUDAGraph, Tensor, Tensor] | None = None
        if graph:
            self._capture()

    @torch.no_grad()
    def prefill(self, ids: Tensor, starts: Tensor | None = None) -> Tensor:
        """Read prompts (B, S) into the emptied cache; the token (B,) that follows each.

        Args:
            ids: Prompts, those of unequal length padded on the left.
            starts: (B,) first real position of each row.
        """
        assert self.model is not None
        if starts is not None and self.starts is None:
            raise InputError("this decoder was made for prompts without padding; say padded=True")
        self.cache.whole.truncate(0)
        self.model.refresh(self.cache)
        mask = None
        if self.starts is not None:
            self.starts.copy_(torch.zeros_like(self.starts) if starts is None else starts)
        if starts is not None:
            mask = torch.arange(ids.shape[1], device=ids.device) >= starts.unsqueeze(1)
        if mask is None and ids.shape[1] == self._prompt:
            logits = self._replayed(ids)
        else:
            logits = read(self.model, ids, self.n_loops, self.cache.whole, mask)
        self.cache.position.fill_(ids.shape[1])
        self._take(logits)
        return self.token.clone()

    def _replayed(self, ids: Tensor) -> Tensor:
        """`read` as one launch."""
        assert self.model is not None
        whole = self.cache.whole
        if self._reading is None:
            kept = ids.clone()

            def reading() -> Tensor:
                assert self.model is not None
                whole.truncate(0)
                return read(self.model, kept, self.n_loops, whole)

            graph, logits = captured(reading)
            self._reading = graph, kept, logits
        graph, kept, logits = self._reading
        kept.copy_(ids)
        graph.replay()
        whole.truncate(0)
        whole.advance(ids.shape[1])
        return logits

    @torch.no_grad()
    def follow(self, token: Tensor) -> Tensor:
        """Logits (B, vocab) after `token` (B,), of a decoder that is told; good until the next."""
        self.token.copy_(token)
        self.step()
        return self.logits

    @torch.no_grad()
    def step(self) -> Tensor:
        """The next token (B,) of every row; the caller sees to it that there is room."""
        if self.graph is not None:
            self.graph.replay()
        elif self._fast is None:
            self._advance()
        else:  # the noise comes from outside: a compiler draws other numbers
            self._fast(self, self._noise())
        return self.token.clone()

    def _advance(self) -> None:
        assert self.model is not None
        self._take(self.model.decode(self.token, self.cache, starts=self.starts))

    def _take(self, logits: Tensor) -> None:
        """Choose the next token, or leave that to the caller."""
        if not self.told:
            self.token.copy_(pick(logits, self.sampling, self.generator))
        elif self.logits.shape == logits.shape:
            self.logits.copy_(logits)
        else:  # the first time, before anything is captured
            self.logits = logits.clone()

    def _think(self, noise: Tensor | None) -> None:
        """`_advance` with what `pick` draws."""
        assert self.model is not None
        logits = self.model.decode(self.token, self.cache, starts=self.starts)
        if self.told:
            self.logits.copy_(logits)
        elif noise is None:
            self.token.copy_(largest(logits))
        else:
            s = self.sampling
            self.token.copy_(sample(logits, noise, s.temperature, s.top_k, s.top_p, s.min_p))

    def _noise(self) -> Tensor | None:
        assert self.model is not None
        if self.told or self.sampling.temperature == 0.0:
            return None
        noise = torch.empty(self.token.shape[0], self.model.cfg.vocab_size)
        return noise.to(self.token.device).exponential_(generator=self.generator)

    @torch.no_grad()
    def _capture(self) -> None:
        source = self.generator or torch.cuda.default_generators[self.token.device.index or 0]
        before = source.get_state()
        self.graph, _ = captured(self._advance, self.cache.position.zero_, self.generator)
        self.cache.position.zero_()
        source.set_state(before)  # a captured decoder draws what an eager one would


Given = TypeVar("Given")


def captured(
    work: Callable[[], Given],
    between: Callable[[], object] = bool,
    generator: torch.Generator | None = None,
) -> tuple[torch.cuda.CUDAGraph, Given]:
    """A CUDA graph of `work`, and what it gives, written anew by each replay.

    Args:
        work: Reads and writes the same tensors every time.
        between: Called after each of the passes before capture.
        generator: What it draws from, unless that is torch's own.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            work()
            between()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    if generator is not None:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        given = work()
    return graph, given


def _called_from_cpp() -> bool:
    """Whether what Inductor writes in C++ can call grouped products: torch 2.12 has them there."""
    fallbacks = import_module("torchgen.aoti.fallback_ops").inductor_fallback_ops
    return "aten._grouped_mm.default" in fallbacks


def _compiled(step: Callable[..., None], device: torch.device) -> Callable[..., None]:
    """One graph of a decoder's step, for this decoder alone.

    Everything that a guard would look at is fixed when a decoder is made, and looking takes a sixth
    of a step (0.37 of 2.3 ms). Without guards nothing but the code object tells graphs apart: each
    has its own.
    """
    assert isinstance(step, FunctionType)
    own = FunctionType(step.__code__.replace(), step.__globals__, step.__name__)
    options: dict[str, str | int | bool | Callable[..., Any]] = {
        "guard_filter_fn": lambda guards: [False] * len(guards)
    }
    if COMPILER == "inductor" and device.type == "cpu":
        known = set(torch._inductor.list_options())
        if not _called_from_cpp():
            known.discard("cpp_wrapper")
        options |= {name: value for name, value in ON_CPU.items() if name in known}
    return torch.compile(own, fullgraph=True, dynamic=False, backend=COMPILER, options=options)


@torch.no_grad()
def read(
    model: StaticModel, ids: Tensor, n_loops: int, cache: KVCache, mask: Tensor | None = None
) -> Tensor:
    """Logits (B, vocab) after prompts (B, S), read into `cache` in pieces of bounded size.

    Args:
        model: The network.
        ids: Prompts.
        n_loops: Loops.
        cache: An empty cache with room for them.
        mask: (B, S) True at real positions.
    """
    width = max(PREFILL_TOKENS // ids.shape[0], 1)
    logits = ids
    for start in range(0, ids.shape[1], width):
        piece = slice(start, start + width)
        logits = model(
            ids[:, piece],
            n_loops,
            cache,
            attention_mask=None if mask is None else mask[:, : start + width],
            logits_to_keep=1,
        )
    return logits[:, -1]


def rows_bucket(batch: int) -> int:
    """Rows that a decoder is made for: exact up to 8, then the next multiple of 8."""
    return batch if batch <= 8 else -(-batch // 8) * 8


def capacity_bucket(length: int, limit: int) -> int:
    """Positions that a decoder is made for: the next power of two from 256, within `limit`."""
    room = 256
    while room < length:
        room *= 2
    return min(room, limit)


_KEPT: "WeakKeyDictionary[nn.Module, dict[Hashable, Decoder]]" = WeakKeyDictionary()


@contextmanager
def borrowed_decoder(
    model: StaticModel,
    batch: int,
    capacity: int,
    n_loops: int,
    sampling: Sampling | None = None,
    *,
    padded: bool,
) -> Iterator[Decoder]:
    """A decoder of these shapes for one generation: made once, and kept for the model's next one.

    While it is out, nobody else gets it: a second generation that runs meanwhile has its own. It is
    made anew when a tensor of the model has moved (`.to`, a loaded state). Without a `sampling` it
    is told its tokens.
    """
    assert isinstance(model, nn.Module)
    where = tuple((t.data_ptr(), t.dtype) for t in (*model.parameters(), *model.buffers()))
    cast = torch.is_autocast_enabled("cuda")
    key = (batch, capacity, n_loops, sampling, padded, cast, where)
    kept = _KEPT.setdefault(model, {})
    decoder = kept.pop(key, None)
    if decoder is None:
        told = sampling is None
        decoder = Decoder(model, batch, capacity, n_loops, sampling, padded=padded, told=told)
    decoder.model = model
    try:
        yield decoder
    finally:
        decoder.model = None  # so that what is kept does not keep the model
        kept[key] = decoder
        while len(kept) > KEPT:  # the least recently used first: a dict keeps its order
            kept.pop(next(iter(kept)))
