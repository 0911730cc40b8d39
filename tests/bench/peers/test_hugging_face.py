"""What the families share, on a stand-in; and on the real package where it is installed."""

from typing import Any

import pytest
import torch

from open_mythos.bench.peers import hugging_face
from open_mythos.bench.peers.deepseek import DeepSeekV3
from open_mythos.bench.peers.hugging_face import HuggingFace, Stack, installed
from open_mythos.bench.peers.llama import Llama
from open_mythos.bench.peers.mixtral import Mixtral
from open_mythos.bench.sizes import size_tiny
from open_mythos.errors import MissingExtraError


CPU = torch.device("cpu")
FAMILIES = {Llama: "gqa", Mixtral: "gqa", DeepSeekV3: "mla"}


def peer(family: type[HuggingFace]) -> HuggingFace:
    return family(size_tiny().config(FAMILIES[family]), CPU, torch.float32)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugging_face, "installed", lambda: False)
    with pytest.raises(MissingExtraError, match=r"open-mythos\[hf\]"):
        peer(Llama)


def test_a_stack_costs_its_layers_and_its_head() -> None:
    assert Stack(3, 10.0, 4.0).flops == 34.0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("what", ["train", "prefill", "decode"])
def test_work_runs(family: type[HuggingFace], what: str, library: Any) -> None:
    work = getattr(peer(family), what)(2, 8)
    work.step()
    work.step()
    assert work.tokens == (2 if what == "decode" else 16)


@pytest.mark.skipif(not installed(), reason="transformers is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_counted_flops_are_those_of_the_real_weights(family: type[HuggingFace]) -> None:
    real = peer(family)
    model, stack = real._built(8)
    cfg = real.cfg
    active = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2)
    picks = getattr(real, "picks", cfg.n_experts_per_tok)
    for name, p in model.named_parameters():
        if p.ndim == 3:
            assert "expert" in name
            active += p.numel() * picks // cfg.n_experts
    counted = stack.flops - stack.layers * (real.attention_flops(8) - real.attention_flops(-1))
    assert counted == pytest.approx(2 * active, rel=0.01)


@pytest.mark.skipif(not installed(), reason="transformers is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_real_models_train_and_decode(family: type[HuggingFace]) -> None:
    for what in ("train", "prefill", "decode"):
        work = getattr(peer(family), what)(2, 8)
        work.step()
        work.step()
