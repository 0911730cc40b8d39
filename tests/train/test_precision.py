"""The 16-bit copy is narrow where that is cheap, and never where it would be remembered."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.moe.layer import MoEFFN
from open_mythos.train.precision import Working, resolve
from open_mythos.train.recipe import Precision, Recipe


@pytest.fixture
def master(tiny: Recipe, randomised: Any) -> OpenMythos:
    model: OpenMythos = randomised(OpenMythos(replace(tiny.model, dropout=0.0)))
    return model


def experts(model: Any) -> MoEFFN:
    ffn = model.recurrent.block.ffn
    assert isinstance(ffn, MoEFFN)
    return ffn


def backward(model: Any) -> None:
    ids = torch.arange(12).view(2, 6) % 2
    model(ids, 3).float().square().mean().backward()


def test_in_float32_the_master_itself_runs(master: OpenMythos) -> None:
    working = Working(master)
    assert working.model is master
    backward(master)
    before = {
        n: (p.clone(), p.grad.clone()) for n, p in master.named_parameters() if p.grad is not None
    }
    working.collect()
    working.refresh()
    for name, (value, grad) in before.items():
        found = master.get_parameter(name)
        assert torch.equal(found, value)
        assert found.grad is not None
        assert torch.equal(found.grad, grad)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_every_parameter_is_copied_in_16_bits(
    master: OpenMythos, precision: Precision, dtype: torch.dtype
) -> None:
    values = {n: p.clone() for n, p in master.named_parameters()}
    working = Working(master, precision)
    assert working.model is not master
    copies = dict(working.model.named_parameters())
    assert copies.keys() == values.keys()
    for name, copied in copies.items():
        assert copied.dtype == dtype
        assert torch.equal(copied, values[name].to(dtype)), name
        assert copied.requires_grad == master.get_parameter(name).requires_grad
        assert master.get_parameter(name).dtype == torch.float32
        assert torch.equal(master.get_parameter(name), values[name])


def test_buffers_exist_once(master: OpenMythos) -> None:
    working = Working(master, "bf16")
    theirs, own = dict(master.named_buffers()), dict(working.model.named_buffers())
    assert theirs.keys() == own.keys()
    assert all(theirs[name] is own[name] for name in theirs)
    assert experts(master).router_bias.dtype == torch.float32
    # What the copy counts and balances is the master's, which is saved.
    working.model.train()
    experts(master).router_bias[0] += 100.0  # every token visits it: loads cannot be equal
    backward(working.model)
    assert experts(master).load.sum() == 12 * 3 * 2
    before = experts(master).router_bias.clone()
    served = working.model.update_router_bias(0.5)  # type: ignore[operator]
    assert served.sum() == 12 * 3 * 2
    moved = (experts(master).router_bias - before).abs()
    assert moved.max() == pytest.approx(0.5)
    assert experts(working.model).load.sum() == experts(master).load.sum() == 0
    assert experts(master).router_bias is experts(working.model).router_bias


def test_a_loaded_state_reaches_the_copy(master: OpenMythos, tiny: Recipe) -> None:
    working = Working(master, "bf16")
    other = OpenMythos(master.cfg)
    experts(other).router_bias.fill_(0.25)
    master.load_state_dict(other.state_dict())
    working.refresh()
    assert torch.equal(experts(working.model).router_bias, torch.full((3,), 0.25))
    for copied, wanted in zip(working.model.parameters(), other.parameters(), strict=True):
        assert torch.equal(copied, wanted.bfloat16())


def test_the_head_stays_tied(master: OpenMythos) -> None:
    model: Any = Working(master, "bf16").model
    assert model.head.weight is model.embed.weight
    assert master.head.weight is master.embed.weight
    assert model.head.weight is not master.head.weight


def test_gradients_are_added_up_in_float32_and_forgotten(master: OpenMythos) -> None:
    working = Working(master, "bf16")
    before: dict[str, Tensor] = {}
    for _ in range(3):  # after the first time onto gradients that are there
        backward(working.model)
        grads: dict[str, Tensor] = {
            n: p.grad.clone() for n, p in working.model.named_parameters() if p.grad is not None
        }
        assert grads["embed.weight"].dtype == torch.bfloat16
        working.collect()
        assert all(p.grad is None for p in working.model.parameters())
        for name, parameter in master.named_parameters():
            if name not in grads:
                assert parameter.grad is None
                continue
            assert parameter.grad is not None
            assert parameter.grad.dtype == torch.float32
            wanted = grads[name].float() + before.get(name, torch.zeros(()))
            assert torch.equal(parameter.grad, wanted), name
            before[name] = wanted


def test_a_copy_without_gradients_hands_over_nothing(master: OpenMythos) -> None:
    working = Working(master, "bf16")
    working.collect()
    assert all(p.grad is None for p in master.parameters())


def test_updates_below_16_bits_add_up_in_the_master(master: OpenMythos) -> None:
    """One step of 2^-12 of a value is lost in bfloat16; sixteen of them are not lost here."""
    working = Working(master, "bf16")
    with torch.no_grad():
        master.norm.weight.fill_(1.0)
    seen = []
    for _ in range(32):
        with torch.no_grad():
            master.norm.weight += 2.0**-12
        working.refresh()
        copied: Any = working.model
        assert copied.norm.weight.dtype == torch.bfloat16
        seen.append(float(copied.norm.weight[0].detach()))
    assert seen[0] == 1.0
    assert seen[-1] == 1.0 + 2.0**-7
    assert seen == sorted(seen)


# -- float16 ---------------------------------------------------------------------------------------


def small_loss(model: Any) -> Tensor:
    """A loss whose gradients lie below 6e-8, where float16 ends."""
    ids = torch.arange(12).view(2, 6) % 2
    loss: Tensor = model(ids, 3).float().square().mean() * 1e-7
    return loss


def gradient(model: Any) -> Tensor:
    return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])


def test_scaled_gradients_survive_what_float16_cannot_hold(master: OpenMythos) -> None:
    wide = copy.deepcopy(master).double()
    small_loss(wide).backward()
    want = gradient(wide)

    bare = Working(master, "fp16")
    small_loss(bare.model).backward()
    bare.collect()
    assert (gradient(master) - want).norm() > 0.3 * want.norm()

    master.zero_grad()
    working = Working(master, "fp16")
    for _ in range(2):  # two passes of one step: unscaled once
        working.scale(small_loss(working.model) / 2).backward()
        working.collect()
    working.unscale()
    assert (gradient(master) - want).norm() < 0.02 * want.norm()


def test_scaling_is_undone_exactly(master: OpenMythos) -> None:
    working = Working(master, "fp16")
    assert working.loss_scale is not None
    working.scale(small_loss(working.model)).backward()
    grads = {n: p.grad for n, p in working.model.named_parameters() if p.grad is not None}
    working.collect()
    working.unscale()
    for name, grad in grads.items():
        found = master.get_parameter(name).grad
        assert found is not None
        assert found.dtype == torch.float32
        assert torch.equal(found * working.loss_scale.scale, grad.float()), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_scale_nothing(master: OpenMythos, precision: Precision) -> None:
    working = Working(master, precision)
    loss = small_loss(working.model)
    assert working.scale(loss) is loss
    loss.backward()
    working.collect()
    before = gradient(master)
    working.unscale()
    working.settle(torch.tensor(False))
    assert torch.equal(gradient(master), before)
    assert working.loss_scale is None


def test_auto_is_the_best_that_a_device_has(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert resolve("auto", cpu) == "fp32"
    for has, best in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has, **_: has)
        assert resolve("auto", gpu) == best
    for named in ("fp32", "bf16", "fp16"):
        assert resolve(named, gpu) == named  # type: ignore[arg-type]
    assert Working(torch.nn.Linear(2, 2), "auto").precision == "fp32"
