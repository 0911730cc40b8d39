"""Quantised weights are what the network computes with, and what stays is said."""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from open_mythos.errors import CheckpointError, InputError, MissingExtraError
from open_mythos.interop import quantisation
from open_mythos.interop.quantisation import quantize
from open_mythos.model.mythos import OpenMythos
from open_mythos.ops.backend import plain


class Rounded(Tensor):
    """A weight as a library of quantisation holds it: its class multiplies; its memory is none."""

    __module__ = "elsewhere"
    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Any:
        made = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=torch.float32)
        made.inner = inner
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            x, weight = args
            return F.linear(x, weight.inner.to(x.dtype))
        return super().__torch_function__(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0].inner)
        raise NotImplementedError(f"{func} was asked of a quantised weight")


def stand_in(round_to: Callable[[Tensor], Tensor]) -> Any:
    """torchao, as far as it is asked."""

    def swap(model: nn.Module, config: Any, filter_fn: Callable[[nn.Module, str], bool]) -> None:
        for name, module in model.named_modules():
            if filter_fn(module, name):
                held = Rounded(round_to(module.weight.detach()))
                module.weight = nn.Parameter(held, requires_grad=False)

    config = SimpleNamespace(Int8WeightOnlyConfig=object, quantize_=swap)
    config.PrototypeInt4WeightOnlyConfig = lambda **_: None
    return config


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are held in half precision by `Rounded`."""
    monkeypatch.setattr(quantisation, "import_module", lambda _: stand_in(lambda w: w.half()))


@pytest.mark.usefixtures("halves")
@pytest.mark.parametrize(
    "changes",
    [{}, {"core_ffn": "dense", "kv": "first"}, {"core_ffn": "dense", "tied_head": False}],
)
def test_a_network_computes_with_the_weights_that_it_was_given(
    tiny_config: Any, randomised: Any, attn_type: str, changes: dict[str, Any]
) -> None:
    cfg = tiny_config(attn_type=attn_type, injection="concat_linear", **changes)
    model = randomised(OpenMythos(cfg)).eval()
    twin = copy.deepcopy(model)
    found = quantize(model, "int8", partial=True)
    with torch.no_grad():
        for name in found.layers:
            weight = twin.get_submodule(name).weight
            weight.copy_(weight.half())
    ids = torch.randint(cfg.vocab_size, (2, 6))
    with torch.no_grad():
        expected = twin(ids, 3)
        torch.testing.assert_close(model(ids, 3), expected, rtol=0, atol=1e-5)
        cache = model.new_cache(2, 6)
        steps = [model(ids[:, :3], 3, cache, logits_to_keep=1)[:, -1]]
        steps += [model(ids[:, i : i + 1], 3, cache)[:, -1] for i in range(3, 6)]
    torch.testing.assert_close(torch.stack(steps, 1), expected[:, 2:], rtol=0, atol=1e-4)
    assert (model(ids, 3) - OpenMythos(cfg).eval()(ids, 3)).abs().max() > 1e-3


@pytest.mark.usefixtures("halves")
def test_every_parameter_is_counted_as_quantised_or_left(tiny_config: Any) -> None:
    model = OpenMythos(tiny_config(core_ffn="dense"))
    whole = sum(p.numel() for p in model.parameters())
    taken = sum(
        m.weight.numel()
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) and name.split(".")[-1] in ("wqkv", "wo", "gate_up", "down")
        and "lora" not in name
    )  # fmt: skip
    found = quantize(model, "int8")
    assert (found.parameters, found.quantised) == (whole, taken)
    assert found.quantised + sum(found.left.values()) == whole
    assert (found.bytes_before, found.bytes_after) == (4 * whole, 4 * whole - 2 * taken)
    assert model.quantised == "int8"
    assert f"{found.share:.1%}" in str(found)
    assert plain(model.head.weight)  # the embedding's own table
    with pytest.raises(InputError, match="quantised already"):
        quantize(model, "int8")


@pytest.mark.usefixtures("halves")
def test_experts_in_stacks_are_refused_and_a_part_is_taken_when_asked(tiny_config: Any) -> None:
    model = OpenMythos(tiny_config())
    with pytest.raises(InputError, match=r"the routed experts, \d+% of the parameters"):
        quantize(model, "int8")
    assert all(plain(p) for p in model.parameters())
    found = quantize(model, "int8", partial=True)
    assert {"recurrent.block.ffn.gate_up", "recurrent.block.ffn.router.weight"} <= set(found.left)
    assert "recurrent.block.ffn.shared.down" in found.layers


@pytest.mark.usefixtures("halves")
def test_widths_that_int4_cannot_hold_are_refused_and_left(tiny_config: Any) -> None:
    model = OpenMythos(tiny_config(core_ffn="dense", dim=32, dense_hidden=40)).bfloat16()
    with pytest.raises(InputError, match=r"down maps 40 to 32 channels; int4 needs multiples"):
        quantize(model, "int4")
    found = quantize(model, "int4", partial=True)
    assert "prelude.0.ffn.gate_up" in found.layers
    assert "prelude.0.ffn.down.weight" in found.left


@pytest.mark.usefixtures("halves")
def test_a_network_that_is_mostly_a_table_is_refused(tiny_config: Any) -> None:
    with pytest.raises(InputError, match=r"only \d+% of the parameters"):
        quantize(OpenMythos(tiny_config(core_ffn="dense", vocab_size=4096)), "int8")


def test_a_library_that_leaves_a_layer_alone_is_noticed(
    tiny_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = SimpleNamespace(Int8WeightOnlyConfig=object, quantize_=lambda *_, **__: None)
    monkeypatch.setattr(quantisation, "import_module", lambda _: idle)
    with pytest.raises(InputError, match=r"torchao left .* as it was"):
        quantize(OpenMythos(tiny_config(core_ffn="dense")), "int8")


def test_without_torchao_the_extra_is_named(
    tiny_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(quantisation, "import_module", absent)
    with pytest.raises(MissingExtraError, match=r"open-mythos\[quant\]"):
        quantize(OpenMythos(tiny_config(core_ffn="dense")), "int8")
    with pytest.raises(InputError, match="'int3'"):
        quantize(OpenMythos(tiny_config()), "int3")


@pytest.mark.usefixtures("halves")
def test_what_is_quantised_is_not_saved(tiny_config: Any, tmp_path: Any) -> None:
    model = OpenMythos(tiny_config(core_ffn="dense"))
    quantize(model, "int8")
    with pytest.raises(CheckpointError, match="is a Rounded, which safetensors cannot hold"):
        model.save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "off"), [("int8", 0.02), ("int4", 0.2)])
def test_torchaos_own_weights_are_near_and_used(
    tiny_config: Any, randomised: Any, attn_type: str, kind: str, off: float
) -> None:
    pytest.importorskip("torchao", reason="torchao, of the extra [quant]")
    sizes = {"dim": 64, "kv_lora_rank": 32, "q_lora_rank": 32, "qk_rope_head_dim": 8,
             "qk_nope_head_dim": 8, "v_head_dim": 8, "dense_hidden": 64}  # fmt: skip
    cfg = tiny_config(attn_type=attn_type, core_ffn="dense", **sizes)
    model = randomised(OpenMythos(cfg), std=0.05).eval()
    ids = torch.randint(cfg.vocab_size, (2, 7))
    expected = model(ids, 3).detach()
    if kind == "int4":
        with pytest.raises(InputError, match=r"float32; int4 goes with bfloat16"):
            quantize(model, kind, partial=True)
        model.bfloat16()
    quantize(model, kind, partial=True)
    with torch.no_grad():
        found = model(ids, 3)
    error = float((found.float() - expected).norm() / expected.norm())
    assert 1e-4 < error < off


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_on_a_gpu_kernels_leave_quantised_weights_to_their_class(
    tiny_config: Any, randomised: Any, attn_type: str, kind: str
) -> None:
    pytest.importorskip("torchao", reason="torchao, of the extra [quant]")
    sizes = {"dim": 64, "kv_lora_rank": 32, "q_lora_rank": 32, "qk_rope_head_dim": 16,
             "qk_nope_head_dim": 16, "v_head_dim": 16, "dense_hidden": 64}  # fmt: skip
    cfg = tiny_config(attn_type=attn_type, core_ffn="dense", **sizes)
    model = randomised(OpenMythos(cfg), std=0.05).eval().cuda().bfloat16()
    ids = torch.randint(cfg.vocab_size, (1, 7), device="cuda")
    with torch.no_grad():
        expected = model(ids, 3).float()
        quantize(model, kind, partial=True)
        found = model(ids, 3).float()
        cache = model.new_cache(1, 7)
        last = [model(ids[:, i : i + 1], 3, cache)[:, -1] for i in range(7)][-1].float()
    assert float((found - expected).norm() / expected.norm()) < 0.3
    torch.testing.assert_close(last, found[:, -1], rtol=0, atol=0.1)
    assert model.generate(ids, 4, 3, temperature=0.0).shape == (1, 11)
