"""Transformers' language models with random weights, sized to this library's FLOPs per token."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from open_mythos.bench.contender import Work, random_ids, sampled, training_step
from open_mythos.bench.floor import TRAIN_OVER_FORWARD
from open_mythos.config.budget import attention_weights, flops_per_token
from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import MissingExtraError


def installed() -> bool:
    """Whether the package is here."""
    return find_spec("transformers") is not None


@dataclass(frozen=True)
class Stack:
    """A plain stack of layers.

    Attributes:
        layers: How many.
        layer_flops: Forward FLOPs per token of one layer (of an average one).
        head_flops: Of the product with the vocabulary.
    """

    layers: int
    layer_flops: float
    head_flops: float

    @property
    def flops(self) -> float:
        """Forward FLOPs per token."""
        return self.layers * self.layer_flops + self.head_flops


class HuggingFace(ABC):
    """One of its models: bf16 (or fp32) weights, SDPA, its own loss, fused AdamW."""

    family: str

    def __init__(
        self, cfg: MythosConfig, device: torch.device, dtype: torch.dtype, *, compiled: bool = False
    ) -> None:
        """A stack as deep as `cfg` is costly; `compiled` runs it through torch.compile.

        Raises:
            MissingExtraError: If transformers is not installed.
        """
        if not installed():
            raise MissingExtraError("transformers", "hf", "comparing with Hugging Face")
        self.transformers: Any = import_module("transformers")
        self.cfg, self.device, self.dtype, self.compiled = cfg, device, dtype, compiled

    @property
    def name(self) -> str:
        """Family, and how it runs."""
        return f"HF {self.family}{' compiled' if self.compiled else ''}"

    @abstractmethod
    def stack(self, seq_len: int) -> Stack:
        """Its depth at about the FLOPs of the config's network, and what that costs."""

    @abstractmethod
    def settings(self, layers: int) -> Any:
        """The config of a model with so many layers."""

    def train(self, batch: int, seq_len: int) -> Work:
        """Its own loss, backward, clip, fused AdamW."""
        model, stack = self._built(seq_len)
        ids = random_ids(self.cfg.vocab_size, batch, seq_len, device=self.device)

        def loss() -> torch.Tensor:
            found: torch.Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
            return found

        return Work(
            step=training_step(model, loss),
            tokens=batch * seq_len,
            flops=TRAIN_OVER_FORWARD * stack.flops * batch * seq_len,
            shape={"batch": batch, "seq_len": seq_len, "layers": stack.layers},
            note=self._note(stack, seq_len),
        )

    def prefill(self, batch: int, seq_len: int) -> Work:
        """One pass, with the logits of the last position."""
        model, stack = self._built(seq_len)
        model.eval()
        ids = random_ids(self.cfg.vocab_size, batch, seq_len, device=self.device)

        def step() -> None:
            with torch.no_grad():
                model(input_ids=ids, use_cache=True, logits_to_keep=1)

        per_token = stack.flops - stack.head_flops * (1 - 1 / seq_len)
        return Work(
            step=step,
            tokens=batch * seq_len,
            flops=per_token * batch * seq_len,
            shape={"batch": batch, "seq_len": seq_len, "layers": stack.layers},
            note=self._note(stack, seq_len),
        )

    def decode(self, batch: int, context: int) -> Work:
        """One token more, sampled, with its growing cache."""
        model, stack = self._built(context)
        model.eval()
        ids = random_ids(self.cfg.vocab_size, batch, context, device=self.device)
        with torch.no_grad():
            seen = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        held: list[Any] = [sampled(seen.logits[:, -1]), seen.past_key_values]

        def step() -> None:
            with torch.no_grad():
                out = model(input_ids=held[0], past_key_values=held[1], use_cache=True)
            held[0] = sampled(out.logits[:, -1])

        return Work(
            step=step,
            tokens=batch,
            shape={"batch": batch, "context": context, "layers": stack.layers},
            note="dynamic cache, eager",
        )

    def _built(self, seq_len: int) -> tuple[Any, Stack]:
        stack = self.stack(seq_len)
        with self.device:
            model = self.transformers.AutoModelForCausalLM.from_config(
                self.settings(stack.layers), dtype=self.dtype, attn_implementation="sdpa"
            )
        model.to(self.device).train()
        if self.compiled:
            model.compile(dynamic=False)
        return model, stack

    def _note(self, stack: Stack, seq_len: int) -> str:
        share = stack.flops / flops_per_token(self.cfg, None, seq_len).total
        return f"{stack.layers} layers, {share:.3f} of the FLOPs per token"

    def basics(self) -> dict[str, Any]:
        """Settings that every family shares."""
        cfg = self.cfg
        return {
            "vocab_size": cfg.vocab_size,
            "hidden_size": cfg.dim,
            "num_attention_heads": cfg.n_heads,
            "max_position_embeddings": cfg.max_seq_len,
            "tie_word_embeddings": True,
        }

    def attention_flops(self, seq_len: int) -> float:
        """Of one layer with the config's own attention, per token."""
        cfg = self.cfg
        if cfg.attn_type == "mla":
            width = cfg.n_heads * (cfg.qk_rope_head_dim + cfg.qk_nope_head_dim + cfg.v_head_dim)
        else:
            width = cfg.n_heads * 2 * cfg.head_dim
        return 2 * attention_weights(cfg) + width * (seq_len + 1)

    def fitted(self, layer_flops: float, seq_len: int) -> Stack:
        """The depth that comes nearest to the config's FLOPs."""
        head = 2.0 * self.cfg.vocab_size * self.cfg.dim
        wanted = flops_per_token(self.cfg, None, seq_len).total
        return Stack(max(1, round((wanted - head) / layer_flops)), layer_flops, head)
