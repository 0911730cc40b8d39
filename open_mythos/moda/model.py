"""MoDAModel: embedding -> blocks that read what those below wrote -> head."""

import copy
import warnings

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from open_mythos.errors import InputError
from open_mythos.generate.sampling import Sampling, pick
from open_mythos.moda.block import Depths, MoDABlock
from open_mythos.moda.cache import MoDACache
from open_mythos.moda.config import MoDAConfig
from open_mythos.moda.experts import DeepSeekMoE
from open_mythos.model.inputs import check_counts, check_ids, check_span
from open_mythos.nn.linear import Linear
from open_mythos.nn.mode import evaluating
from open_mythos.nn.moe.balance import recomputing
from open_mythos.nn.norm import RMSNorm
from open_mythos.nn.rotary import rotary
from open_mythos.ops.backend import traced
from open_mythos.ops.head_loss import head_loss


IGNORED = -100  # target of positions that are not scored


class MoDAModel(nn.Module):
    """A decoder whose heads look along the sequence and, at their own position, down the layers.

    An independent reading of the paper (docs/moda.md says where it is silent).
    """

    def __init__(self, cfg: MoDAConfig) -> None:
        """Build from a checked copy of `cfg`; later changes to the caller's do not reach it.

        Raises:
            ConfigError: If `cfg` cannot describe a network.
        """
        super().__init__()
        cfg.validate()
        self.cfg = cfg = copy.deepcopy(cfg)
        self.embed = nn.Embedding(cfg.vocab_size, cfg.d_model)
        last = cfg.n_layers - 1
        self.blocks = nn.ModuleList(MoDABlock(cfg, top=i == last) for i in range(cfg.n_layers))
        self.norm_out = RMSNorm(cfg.d_model, cfg.norm_eps)
        self.lm_head = Linear(cfg.d_model, cfg.vocab_size)
        self.lm_head.weight = self.embed.weight
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Start every matrix at N(0, init_std); norms and biases keep what their modules set."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=self.cfg.init_std)
            elif isinstance(module, DeepSeekMoE):
                nn.init.normal_(module.gate_up, std=self.cfg.init_std)
                nn.init.normal_(module.down, std=self.cfg.init_std)

    # -- the pass --------------------------------------------------------------------------------

    def forward(
        self,
        ids: Tensor,
        labels: Tensor | None = None,
        cache: MoDACache | None = None,
        *,
        logits_to_keep: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (B, S, vocab) of the tokens that follow each position, and their loss.

        Args:
            ids: (B, S) token ids.
            labels: (B, S), the token that follows each position (nothing is shifted here), -100
                where none is scored.
            cache: Is read, and extended by the S positions.
            logits_to_keep: Logits of the last so many positions only; not with labels.

        Returns:
            The logits; and the mean cross entropy, in training plus moe_balance_alpha times the
            balance losses of all layers, None without labels.

        Raises:
            InputError: If an argument cannot be answered for.
            CacheError: If the cache is full or foreign.
        """
        if labels is not None and logits_to_keep is not None:
            raise InputError("labels score every position; leave logits_to_keep out")
        check_counts(logits_to_keep=logits_to_keep, backprop_loops=None)
        targets = None if labels is None else self._targets(ids, labels)
        features, imbalance = self._features(ids, cache, weigh=targets is not None)
        if logits_to_keep is not None:
            features = features[:, max(features.shape[1] - logits_to_keep, 0) :]
        logits: Tensor = self.lm_head(features)
        if targets is None:
            return logits, None
        wide = logits if logits.dtype == torch.float64 else logits.float()
        total = F.cross_entropy(
            wide.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        scored = (targets != IGNORED).sum().clamp(min=1)
        return logits, self._with(imbalance, total / scored)

    def loss(self, ids: Tensor, labels: Tensor) -> Tensor:
        """The loss of `forward` alone, without ever holding the logits of all positions."""
        targets = self._targets(ids, labels)
        features, imbalance = self._features(ids, None, weigh=True)
        said = head_loss(features.flatten(0, 1), self.lm_head.weight, targets.flatten())
        return self._with(imbalance, said.total)

    def _with(self, imbalance: Tensor | None, loss: Tensor) -> Tensor:
        return loss if imbalance is None else loss + self.cfg.moe_balance_alpha * imbalance

    def _features(
        self, ids: Tensor, cache: MoDACache | None, *, weigh: bool
    ) -> tuple[Tensor, Tensor | None]:
        """What the head reads, (B, S, d_model), and the balance losses' sum where there is one."""
        cfg, past = self.cfg, 0 if cache is None else cache.length
        ids = check_ids(ids, cfg)
        check_span(past, ids.shape[1], cfg)
        if cache is not None:
            cache.check(cfg, ids.shape[0], self.embed.weight)
        positions = torch.arange(past, past + ids.shape[1], device=ids.device)
        turns, depths, x = rotary(positions, cfg.head_dim, cfg.rope_base), Depths(), self.embed(ids)
        weigh = weigh and self.training and cfg.moe_balance == "loss" and cfg.moe_balance_alpha > 0
        parts, loads = [], []
        for i, block in enumerate(self.blocks):
            slot = None if cache is None else cache.layers[i]
            x, depths, mixed = block(x, turns, depths, slot, weigh=weigh)
            loads.append(mixed.load)
            if mixed.imbalance is not None:
                parts.append(mixed.imbalance)
        if cache is not None:
            cache.advance(ids.shape[1])
        self._count(loads)
        return self.norm_out(x), torch.stack(parts).sum() if parts else None

    def _targets(self, ids: Tensor, labels: Tensor) -> Tensor:
        if not isinstance(labels, Tensor) or labels.shape != ids.shape:
            shape = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
            raise InputError(
                f"labels are {shape}, the ids {tuple(ids.shape)}; give one target per position, "
                f"{IGNORED} where there is none"
            )
        if labels is ids:
            warnings.warn(
                "labels are the ids themselves, so that the model learns to repeat its input; "
                "labels[:, i] is the token that FOLLOWS ids[:, i]: model(t[:, :-1], t[:, 1:])",
                stacklevel=3,
            )
        if labels.device.type == "cpu" and not traced():
            real = labels[labels != IGNORED]
            if real.numel():
                check_ids(real.unsqueeze(0), self.cfg)
        return labels.long()

    # -- decoding --------------------------------------------------------------------------------

    def new_cache(self, batch: int, capacity: int) -> MoDACache:
        """An empty cache for `batch` rows of up to `capacity` positions, on the model's device."""
        weight = self.embed.weight
        return MoDACache(self.cfg, batch, capacity, device=weight.device, dtype=weight.dtype)

    @torch.no_grad()
    def generate(  # noqa: PLR0913 -- the usual arguments of generation
        self,
        ids: Tensor,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        top_k: int = 50,
        *,
        top_p: float = 1.0,
        min_p: float = 0.0,
        eos_token_id: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The prompts (B, S), all of one length, with up to `max_new_tokens` tokens added.

        Args:
            ids: (B, S) prompts.
            max_new_tokens: Tokens to add.
            temperature: 0 is greedy.
            top_k: 0 is no filter.
            top_p: 1 is no filter.
            min_p: 0 is no filter.
            eos_token_id: Stop a row after this token, and fill it up with it.
            generator: Source of randomness; None is torch's own.

        Raises:
            InputError: If an argument is out of range or the model has no room.
        """
        ids = check_ids(ids, self.cfg)
        sampling = Sampling(temperature, top_k, top_p, min_p)
        new = max_new_tokens
        if isinstance(new, bool) or not isinstance(new, int) or new < 0:
            raise InputError(f"max_new_tokens is {new!r}; it must be an int >= 0")
        check_span(0, ids.shape[1] + new, self.cfg)
        if new == 0:
            return ids
        cache = self.new_cache(ids.shape[0], ids.shape[1] + new)
        tokens, read = [ids], ids
        finished = torch.zeros(ids.shape[0], 1, dtype=torch.bool, device=ids.device)
        with evaluating(self):
            for _ in range(new):
                logits, _ = self(read, cache=cache, logits_to_keep=1)
                read = pick(logits[:, -1], sampling, generator).unsqueeze(1)
                if eos_token_id is not None:
                    read = read.masked_fill(finished, eos_token_id)
                    finished = finished | (read == eos_token_id)
                tokens.append(read)
                if eos_token_id is not None and finished.all():
                    break
        return torch.cat(tokens, dim=1)

    # -- balance and size ------------------------------------------------------------------------

    @torch.no_grad()
    def update_router_bias(self, step_size: float = 0.001) -> Tensor:
        """Balance the experts by their bias: call once after each optimizer step.

        Moves every layer's bias towards even use, by the tokens that each expert served in the
        training-mode passes since the last call, over all ranks if torch.distributed is
        initialised. With moe_balance="loss" it moves nothing and only reports.

        Returns:
            (n_layers, E) int64, those tokens.
        """
        loads = []
        for moe in self._mixtures():
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(moe.load)
            loads.append(moe.update_bias(step_size))
        return torch.stack(loads)

    def _mixtures(self) -> list[DeepSeekMoE]:
        return [module for module in self.modules() if isinstance(module, DeepSeekMoE)]

    @torch.no_grad()
    def _count(self, loads: list[Tensor]) -> None:
        if self.training and not recomputing():
            for moe, load in zip(self._mixtures(), loads, strict=True):
                moe.load += load

    def num_parameters(self, trainable_only: bool = False) -> int:
        """Numbers in all parameters, the tied head counted once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trainable_only)
