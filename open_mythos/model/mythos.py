"""OpenMythos: embedding -> prelude -> loop -> coda -> head."""

import copy
from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
import torch.distributed as dist
from torch import Tensor, nn

from open_mythos.checkpoint.legacy import accept_legacy
from open_mythos.config.mythos import MythosConfig
from open_mythos.generate.decode import Stop
from open_mythos.generate.params import SamplingParams
from open_mythos.generate.sampling import Sampling
from open_mythos.generate.streamer import Streamer
from open_mythos.model.generation import How, generated
from open_mythos.model.inputs import (
    Depths,
    check_counts,
    check_depths,
    check_ids,
    check_reads,
    check_span,
    check_start,
)
from open_mythos.model.leaving import leaving
from open_mythos.model.output import ForwardOutput, forward_output
from open_mythos.model.stored import Stored
from open_mythos.model.view import look
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.block import TransformerBlock, run_blocks
from open_mythos.nn.cache import KVCache
from open_mythos.nn.coda import coda_input
from open_mythos.nn.dict_cache import DictCache, open_cache, publish
from open_mythos.nn.init import initialise
from open_mythos.nn.linear import Linear
from open_mythos.nn.loop.exits.registry import CALIBRATED
from open_mythos.nn.loop.per_row import RowLoops
from open_mythos.nn.loop.recurrent import RecurrentBlock
from open_mythos.nn.loop.trace import LoopTrace
from open_mythos.nn.moe.balance import recomputing
from open_mythos.nn.norm import RMSNorm
from open_mythos.nn.rotary import Rotary, rotary
from open_mythos.nn.static_cache import StaticCache
from open_mythos.nn.watched import patched


class OpenMythos(Stored):
    """A recurrent-depth language model: one block in the middle runs as often as you say.

    The architecture is hypothesised, after public papers only (docs/equations.md).
    """

    def __init__(self, cfg: MythosConfig) -> None:
        """Build from a checked copy of `cfg`; later changes to the caller's do not reach it.

        Raises:
            ConfigError: If `cfg` cannot describe a network.
        """
        super().__init__(cfg)
        cfg.validate()
        self.cfg = cfg = copy.deepcopy(cfg)
        self.embed = nn.Embedding(cfg.vocab_size, cfg.dim)
        self.prelude = nn.ModuleList(TransformerBlock(cfg) for _ in range(cfg.prelude_layers))
        self.recurrent = RecurrentBlock(cfg)
        self.coda = nn.ModuleList(TransformerBlock(cfg) for _ in range(cfg.coda_layers))
        self.coda_input = coda_input(cfg)
        self.norm = RMSNorm(cfg.dim, cfg.norm_eps) if cfg.last_norm else nn.Identity()
        self.head = Linear(cfg.dim, cfg.vocab_size)
        if cfg.tied_head:
            self.head.weight = self.embed.weight
        initialise(self, cfg)
        std = cfg.init_std if cfg.embed_init_std is None else cfg.embed_init_std
        nn.init.normal_(self.embed.weight, std=std)
        if isinstance(self.norm, RMSNorm):
            nn.init.constant_(self.norm.weight, cfg.last_norm_init)
        self.register_load_state_dict_pre_hook(accept_legacy)  # type: ignore[no-untyped-call]

    # -- the pass --------------------------------------------------------------------------------

    @overload
    def forward(
        self,
        ids: Tensor,
        n_loops: Depths | None = None,
        kv_cache: "KVCache | DictCache | None" = None,
        start_pos: int | None = None,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        documents: Tensor | None = None,
        logits_to_keep: int | None = None,
        backprop_loops: int | None = None,
        read_loops: Sequence[int] = (),
        min_loops: int | None = None,
        exit: object = None,
        return_output: Literal[False] = False,
    ) -> Tensor: ...
    @overload
    def forward(
        self,
        ids: Tensor,
        n_loops: Depths | None = None,
        kv_cache: "KVCache | DictCache | None" = None,
        start_pos: int | None = None,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        documents: Tensor | None = None,
        logits_to_keep: int | None = None,
        backprop_loops: int | None = None,
        read_loops: Sequence[int] = (),
        min_loops: int | None = None,
        exit: object = None,
        return_output: Literal[True],
    ) -> ForwardOutput: ...

    def forward(  # noqa: PLR0913 -- the published call form and its usual companions
        self,
        ids: Tensor,
        n_loops: Depths | None = None,
        kv_cache: "KVCache | DictCache | None" = None,
        start_pos: int | None = None,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        documents: Tensor | None = None,
        logits_to_keep: int | None = None,
        backprop_loops: int | None = None,
        read_loops: Sequence[int] = (),
        min_loops: int | None = None,
        exit: object = None,
        return_output: bool = False,
    ) -> Tensor | ForwardOutput:
        """Logits (B, S, vocab) of the tokens that follow each position.

        Args:
            ids: (B, S) token ids.
            n_loops: How often the recurrent block runs, more than in training if you like; or one
                number per row, of which none is run longer than it says (not with a cache). None
                is the cache's number if it has one, else the config's max_loop_iters.
            kv_cache: A `KVCache`, or a plain dict that is filled in place; either is extended.
            start_pos: Index of the first position; None follows the cache.
            attention_mask: (B, S) or (B, cached + S), 0 at padding, on either side.
            position_ids: (S,) or (B, S) rotary positions, instead of counting real tokens.
            documents: (B, S), the document of each position: it sees its own document only, and
                positions count from the document's start, as if each were a row. Attention then
                takes a mask of S x S per row, which costs time and memory. Not with a cache.
            logits_to_keep: Logits of the last so many positions only; 0 forms none, which is what
                a loss that reads `ForwardOutput.features` wants. None is all of them.
            backprop_loops: Differentiate the last so many loops only, so that memory does not
                grow with depth; None is all of them.
            read_loops: Loops after which to read out beside the last: the record holds the features
                of each, for one pass of the coda each.
            min_loops: Beside one number of loops per row: loops to take part in at least, where
                other ranks have deeper rows and wait in each loop.
            exit: Where positions leave the loop early: a name such as "kl:0.01", "calibrated", or
                an object of your own (docs/exits.md). At inference only.
            return_output: Return the record of the pass instead of the logits.

        Raises:
            InputError: If an argument cannot be answered for.
            CacheError: If the cache is full, foreign, or contradicted by the call.
        """
        ids = check_ids(ids, self.cfg)
        cache = open_cache(kv_cache, self.cfg, ids, like=self.embed.weight)
        past = 0 if cache is None else cache.length
        start = check_start(start_pos, past, cached=cache is not None)
        check_span(start, ids.shape[1], self.cfg)
        check_counts(logits_to_keep=logits_to_keep, backprop_loops=backprop_loops)
        if n_loops is None and cache is not None:
            n_loops = cache.n_loops
        if n_loops is None and exit == CALIBRATED and self.calibrated is not None:
            n_loops = self.calibrated.n_loops
        loops = check_depths(n_loops, min_loops, ids, self.cfg, cached=cache is not None)
        leave = leaving(exit, self, loops)
        reads = check_reads(read_loops, loops, recorded=return_output and cache is None)
        view = look(ids, start, cache, self.cfg, attention_mask, position_ids, documents)
        if cache is not None and isinstance(loops, int):
            cache.fix_loops(loops)
        observed = return_output or self.training  # nobody else asks what the loops did
        features, trace = self._pass(
            ids, loops, view.context, cache, view.real,
            where=view.where,
            keep=None if observed else logits_to_keep,
            backprop_loops=backprop_loops,
            read_loops=reads,
            observed=observed,
            leave=leave,
        )  # fmt: skip
        logits = self._logits(features, logits_to_keep)
        if cache is not None:
            cache.mark(view.valid, past + ids.shape[1])
            cache.advance(ids.shape[1])
            if kv_cache is not None and not isinstance(kv_cache, KVCache):
                publish(cache, kv_cache)
        if trace is None:
            return logits
        self._count(trace)
        if not return_output:
            return logits
        read = tuple(self._finish(x, view.context) for x in trace.reads)
        return forward_output(logits, features, trace, view.real, read)

    def _pass(
        self,
        ids: Tensor,
        n_loops: int | RowLoops,
        context: AttentionContext,
        cache: "KVCache | StaticCache | None",
        valid: Tensor | None = None,
        *,
        where: Tensor,
        keep: int | None = None,
        **how: Any,
    ) -> tuple[Tensor, LoopTrace | None]:
        """Features (B, S, dim), or those of the last `keep` positions at least, and the trace.

        `where` (S,) or (B, S) are positions; `how` is passed on to the loop.
        """
        first = None if cache is None else cache.prelude
        x = run_blocks(self.prelude, self.embed(ids), context, first)
        slots = None if cache is None else cache.recurrent
        h, e = self.recurrent.begin(x, where)
        x, trace = self.recurrent.run(h, e, context, n_loops, slots, valid, **how)
        return self._finish(x, context, cache, keep), trace

    def _finish(
        self,
        x: Tensor,
        context: AttentionContext,
        cache: "KVCache | StaticCache | None" = None,
        keep: int | None = None,
    ) -> Tensor:
        """What the head reads, from what was read out of the loop."""
        kept = None if patched(self.norm) else keep  # who looks there sees every position
        x = self.coda_input(x)
        x = run_blocks(self.coda, x, context, None if cache is None else cache.coda, kept)
        features: Tensor = self.norm(x)
        return features

    def _logits(self, features: Tensor, keep: int | None = None) -> Tensor:
        kept = features if keep is None else features[:, max(features.shape[1] - keep, 0) :]
        logits: Tensor = self.head(kept)
        return logits

    def decode(self, token: Tensor, cache: StaticCache, *, starts: Tensor | None = None) -> Tensor:
        """Logits (B, vocab) after one more token per row, in shapes that never change.

        What a CUDA graph captures: the position is a tensor, the cache is written in place, and
        every loop runs. Nothing is checked; `Decoder` does that once.

        Args:
            token: (B,) int64.
            cache: Where the token's keys and values go; its position is moved on.
            starts: (B,) first real position of each row, where rows are padded on the left.
        """
        where = cache.position if starts is None else (cache.position - starts).unsqueeze(1)
        context = AttentionContext(
            Rotary(cache.rotary.cos[where], cache.rotary.sin[where]),
            lengths=(cache.position + 1).expand(token.shape[0]),
            starts=starts,
        )
        loops, given = len(cache.constants.ticks), cache.constants
        features, _ = self._pass(
            token.unsqueeze(1),
            loops,
            context,
            cache,
            where=where,
            constants=given,
            observed=False,
        )
        cache.position += 1
        return self._logits(features)[:, 0]

    @torch.no_grad()
    def new_static_cache(
        self, batch: int, capacity: int, n_loops: int, *, compiled: bool = False
    ) -> StaticCache:
        """An empty cache for `decode`: fixed in batch, capacity and loops.

        Where the step of a single row will be `compiled` on a CPU, the cache keeps a copy of the
        experts in the order that such a step reads them.
        """
        cache, weight = self.new_cache(batch, capacity, n_loops=n_loops), self.embed.weight
        where = torch.arange(capacity, device=weight.device)
        tables = rotary(where, self.cfg.rope_dim, self.cfg.rope_theta)
        stacked = compiled and batch == 1 and weight.device.type == "cpu"
        constants = self.recurrent.constants(n_loops, weight, stacked=stacked)
        return StaticCache(cache, tables, constants.copy())

    @torch.no_grad()
    def refresh(self, cache: StaticCache) -> None:
        """Bring a static cache's constants up to date with the weights, in place."""
        old = cache.constants
        now = self.recurrent.constants(len(old.ticks), self.embed.weight, stacked=old.stacked)
        for kept, new in zip(old.tensors(), now.tensors(), strict=True):
            kept.copy_(new)

    def new_cache(self, batch: int, capacity: int, *, n_loops: int | None = None) -> KVCache:
        """An empty cache for `batch` rows of up to `capacity` positions, on the model's device.

        The number of loops is fixed by the first call if it is not given here.
        """
        weight = self.embed.weight
        return KVCache(
            self.cfg, batch, capacity, n_loops=n_loops, device=weight.device, dtype=weight.dtype
        )

    # -- generation ------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(  # noqa: PLR0913 -- the published call form and its usual companions
        self,
        ids: Tensor,
        max_new_tokens: int = 64,
        n_loops: int | None = 8,
        temperature: float = 1.0,
        top_k: int = 50,
        *,
        top_p: float = 1.0,
        min_p: float = 0.0,
        eos_token_id: int | None = None,
        generator: torch.Generator | None = None,
        attention_mask: Tensor | None = None,
        static: bool | None = None,
        exit: object = None,
        params: SamplingParams | None = None,
        streamer: Streamer | None = None,
    ) -> Tensor:
        """The prompts with up to `max_new_tokens` tokens added: (B, S + new).

        Args:
            ids: (B, S) prompts; pad unequal ones on the left and say so in `attention_mask`.
            max_new_tokens: Tokens to add.
            n_loops: Loops per token; None is the config's max_loop_iters.
            temperature: 0 is greedy.
            top_k: 0 is no filter.
            top_p: 1 is no filter.
            min_p: 0 is no filter.
            eos_token_id: Stop a row after this token, and fill it up with it.
            generator: Source of randomness; None is torch's own.
            attention_mask: (B, S), 0 at padding.
            static: Decode in fixed shapes, one CUDA graph per token; None does so by itself on a
                GPU, False never.
            exit: Where positions leave the loop early, as in a pass; decoded one by one then.
            params: All that a request may ask, instead of max_new_tokens to min_p (which is top_k
                0 unless it says otherwise); with n continuations each, B * n rows come back.
            streamer: Is shown prompts and tokens as they are made; transformers' streamers will do.

        Raises:
            InputError: If an argument is out of range or the model has no room.
        """
        how = How(n_loops, generator, attention_mask, static, exit, streamer)
        sampling = Sampling(temperature, top_k, top_p, min_p)
        return generated(self, ids, Stop(max_new_tokens, eos_token_id), sampling, params, how)

    # -- router balance --------------------------------------------------------------------------

    @torch.no_grad()
    def update_router_bias(self, step_size: float | Tensor = 0.001) -> Tensor:
        """Balance the experts: call once after each optimizer step of a training loop of your own.

        Moves every router bias towards even use, by the tokens that each expert served in the
        training-mode passes since the last call: over all loops and micro-batches, and over all
        ranks if torch.distributed is initialised.

        Returns:
            (E,) int64, those tokens; of several layers of the core, one layer's after the other's;
            (0,) without experts.
        """
        loads = [torch.zeros(0, dtype=torch.int64, device=self.embed.weight.device)]
        for ffn in self.recurrent.mixtures:
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(ffn.load)
                ffn.load //= ffn.alike
            loads.append(ffn.update_bias(step_size))
        return torch.cat(loads)

    @torch.no_grad()
    def _count(self, trace: LoopTrace) -> None:
        if not self.training or recomputing():
            return
        loads = trace.router_load.sum(0).view(-1, self.cfg.n_experts)
        for ffn, load in zip(self.recurrent.mixtures, loads, strict=True):
            ffn.load += load
