"""The plugin's network, beside a stand-in for vLLM's attention, says what ours says."""

import sys
from collections import defaultdict
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from open_mythos.errors import ConfigError
from open_mythos.model.mythos import OpenMythos
from open_mythos.vllm.network import OpenMythosForVLLM


class Attention(nn.Module):
    """Keys and values by request, under one number, as vLLM's layer of that name keeps them."""

    batch: tuple[str, ...] = ()  # whose token is whose, in the order of the rows
    made: list[str]

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        cache_config: Any = None,
        prefix: str = "",
    ) -> None:
        super().__init__()
        self.sizes, self.scale = (num_heads, num_kv_heads or num_heads, head_size), scale
        self.kept: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        type(self).made.append(prefix)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads, kv_heads, width = self.sizes
        rows = []
        for i, request in enumerate(self.batch):
            past = self.kept[request]
            past.append((key[i].view(kv_heads, width), value[i].view(kv_heads, width)))
            k, v = (torch.stack(part, dim=1) for part in zip(*past, strict=True))
            q = query[i].view(1, heads, 1, width)
            k, v = (t.repeat_interleave(heads // kv_heads, 0).unsqueeze(0) for t in (k, v))
            rows.append(F.scaled_dot_product_attention(q, k, v, scale=self.scale).flatten())
        return torch.stack(rows)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[Attention]:
    layer = type("Attention", (Attention,), {"made": []})
    name = "vllm.model_executor.layers.attention"
    module: Any = ModuleType(name)
    module.Attention = layer
    for i in range(1, 5):
        parent = ".".join(name.split(".")[:i])
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    monkeypatch.setitem(sys.modules, name, module)
    return layer


def settings(cfg: Any, **changes: Any) -> Any:
    """vLLM's settings, as far as a model asks."""
    told = SimpleNamespace(mythos=cfg, num_loops=changes.get("num_loops"), exit=None)
    return SimpleNamespace(
        model_config=SimpleNamespace(hf_config=told),
        quant_config=changes.get("quant_config"),
        parallel_config=SimpleNamespace(tensor_parallel_size=1, pipeline_parallel_size=1),
        cache_config=None,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"core_layers": 2, "loop_index": True},
        {"injection": "hyper", "initial_state": "noise", "qk_norm": True, "attention_bias": True},
        {"untied_attention": True, "tied_head": False, "coda_input": "linear", "coda_layers": 2},
    ],
)
@torch.no_grad()
def test_two_requests_in_one_batch_get_the_logits_that_each_would_alone(
    tiny_config: Any, randomised: Any, stand_in: type[Attention], changes: dict[str, Any]
) -> None:
    cfg = tiny_config(core_ffn="dense", readout="last", **changes)
    model = randomised(OpenMythos(cfg)).eval()
    served = OpenMythosForVLLM(vllm_config=settings(cfg, num_loops=2), prefix="")
    named = ((f"model.{name}", tensor) for name, tensor in model.state_dict().items())
    assert served.load_weights(named) == {n for n, _ in served.named_parameters()}
    a, b = (torch.randint(cfg.vocab_size, (n,)) for n in (5, 3))
    whole = {name: model(ids.unsqueeze(0), 2)[0] for name, ids in (("a", a), ("b", b))}

    def said(*tokens: tuple[str, int]) -> Tensor:
        stand_in.batch = tuple(name for name, _ in tokens)
        ids = torch.stack([{"a": a, "b": b}[name][i] for name, i in tokens])
        hidden = served(ids, torch.tensor([i for _, i in tokens]))
        return served.compute_logits(hidden)

    batches = [
        [("a", 0), ("a", 1), ("a", 2), ("b", 0)],  # two prompts in one call
        [("b", 1), ("a", 3)],  # a token each
        [("a", 4), ("b", 2)],
    ]
    for batch in batches:
        expected = torch.stack([whole[name][i] for name, i in batch])
        torch.testing.assert_close(said(*batch), expected, rtol=0, atol=1e-4)


def test_every_layer_of_every_loop_has_an_attention_with_one_number_in_its_name(
    tiny_config: Any, stand_in: type[Attention]
) -> None:
    cfg = tiny_config(core_ffn="dense", readout="last", core_layers=2)
    made = OpenMythosForVLLM(vllm_config=settings(cfg), prefix="model")
    count = cfg.prelude_layers + 2 * cfg.max_loop_iters + cfg.coda_layers
    assert made.n_loops == cfg.max_loop_iters
    assert stand_in.made == [f"model.layers.{i}.attn" for i in range(count)]


def test_what_does_not_fit_is_refused_before_anything_is_built(
    tiny_config: Any, stand_in: type[Attention]
) -> None:
    fitting = tiny_config(core_ffn="dense", readout="last")
    with pytest.raises(ConfigError, match="core_ffn is 'moe'"):
        OpenMythosForVLLM(vllm_config=settings(tiny_config(readout="last")))
    with pytest.raises(ConfigError, match="quantization"):
        OpenMythosForVLLM(vllm_config=settings(fitting, quant_config=object()))
    assert stand_in.made == []
