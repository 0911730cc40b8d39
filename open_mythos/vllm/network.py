"""OpenMythosForVLLM: the network as vLLM wants a model to be; written to vLLM 0.33, not run in it.

The network is this library's own, with its weights as they are: only attention is vLLM's, one for
every layer and loop. Tokens of all requests come in one row; what else a token passes looks at no
other.
"""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.block import run_blocks
from open_mythos.nn.loop.recurrent import check_loops
from open_mythos.nn.rotary import rotary
from open_mythos.vllm.fit import check_fit, check_start
from open_mythos.vllm.slots import Slots, number_slots
from open_mythos.vllm.weights import load_into


class OpenMythosForVLLM(nn.Module):
    """A network with dense core and grouped-query attention, its loops fixed when it is loaded.

    Attributes:
        model: The network.
        n_loops: Loops of every token: the config's num_loops, else its max_loop_iters.
        attends: vLLM's attentions, in the order in which a token passes them.
    """

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        """Build from vLLM's settings; vLLM loads the weights afterwards.

        Raises:
            ConfigError: If the plugin cannot hold the network, or what was asked beside it.
        """
        super().__init__()
        told = vllm_config.model_config.hf_config
        cfg = told.mythos
        check_fit(cfg)
        check_start(told.exit, vllm_config.quant_config, vllm_config.parallel_config)
        self.cfg = cfg
        self.n_loops = check_loops(told.num_loops, cfg.max_loop_iters)
        self.model = OpenMythos(cfg).eval()
        numbers = number_slots(cfg, self.n_loops)
        attention: Any = import_module("vllm.model_executor.layers.attention").Attention
        before = f"{prefix}." if prefix else ""
        self.attends = nn.ModuleList(
            attention(
                cfg.n_heads,
                cfg.head_dim,
                cfg.head_dim**-0.5,
                num_kv_heads=cfg.n_kv_heads,
                cache_config=vllm_config.cache_config,
                prefix=f"{before}layers.{number}.attn",  # vLLM reads the one number in it
            )
            for number in range(numbers.count)
        )
        self._slots = Slots.of(numbers, list(self.attends))

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """(N,) int64 -> (N, dim)."""
        embedded: Tensor = self.model.embed(input_ids)
        return embedded

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: object = None,  # noqa: ARG002 -- of pipelines, which are refused
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Features (N, dim) of N tokens of any requests, at their positions (N,)."""
        net, slots = self.model, self._slots
        given = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds  # type: ignore[arg-type]
        context = AttentionContext(rotary(positions, self.cfg.rope_dim, self.cfg.rope_theta))
        x = run_blocks(net.prelude, given.unsqueeze(0), context, slots.prelude)
        h, e = net.recurrent.begin(x, positions)
        x, _ = net.recurrent.run(h, e, context, self.n_loops, slots.recurrent, observed=False)
        x = run_blocks(net.coda, net.coda_input(x), context, slots.coda)
        features: Tensor = net.norm(x)
        return features.squeeze(0)

    def compute_logits(self, hidden_states: Tensor) -> Tensor:
        """(N, dim) -> (N, vocab)."""
        logits: Tensor = self.model.head(hidden_states)
        return logits

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Take the weights of an exported folder; the names of all that have a value now."""
        loaded = load_into(self.model, weights, tied_head=self.cfg.tied_head)
        return {f"model.{name}" for name in loaded}
