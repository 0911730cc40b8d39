"""Starting states: what they are made of, and that they do not depend on how a prompt was cut."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.initial import InitialState, position_noise


def test_noise_is_standard_normal_and_uncorrelated() -> None:
    noise = position_noise(torch.arange(4096), 64).double()
    count = noise.numel()
    assert abs(noise.mean()) < 5 / math.sqrt(count)
    assert abs(noise.var() - 1) < 5 * math.sqrt(2 / count)
    assert abs((noise**4).mean() - 3) < 5 * math.sqrt(96 / count)
    for shifted in (noise[1:] * noise[:-1], noise[:, 1:] * noise[:, :-1]):
        assert abs(shifted.mean()) < 5 / math.sqrt(shifted.numel())
    across = (noise.T @ noise / 4096).fill_diagonal_(0).abs().max()
    assert across < 6 / math.sqrt(4096)
    below = (noise < 0.5).double().mean()
    assert abs(below - 0.5 * (1 + math.erf(0.5 / math.sqrt(2)))) < 5 / math.sqrt(count)


def test_noise_depends_on_the_position_alone() -> None:
    whole = position_noise(torch.arange(10), 8)
    assert torch.equal(
        position_noise(torch.tensor([[3, 7]], dtype=torch.int32), 8)[0], whole[[3, 7]]
    )
    assert not torch.equal(whole[0], whole[1])


@pytest.mark.parametrize("kind", ["input", "zeros", "learned", "noise"])
def test_every_kind_is_what_it_is_called(
    kind: str, tiny_config: Callable[..., MythosConfig]
) -> None:
    initial = InitialState(tiny_config(initial_state=kind, initial_std=0.5)).eval()
    e, where = torch.randn(2, 3, 16, requires_grad=True), torch.arange(3)
    if initial.vector is not None:
        torch.nn.init.normal_(initial.vector)
    h = initial(e, where)
    want = {
        "input": e,
        "zeros": torch.zeros_like(e),
        "learned": initial.vector,
        "noise": 0.5 * position_noise(where, 16),
    }[kind]
    torch.testing.assert_close(h, want.expand_as(h))
    slope = torch.autograd.grad(h.sum(), e)[0]
    assert slope.eq(1.0 if kind == "input" else 0.0).all()
    assert h.data_ptr() != e.data_ptr()


def test_noise_in_training_is_new_every_time(tiny_config: Callable[..., MythosConfig]) -> None:
    initial = InitialState(tiny_config(initial_state="noise", initial_std=2.0)).train()
    e, where = torch.zeros(64, 16, 16), torch.arange(16)
    first, second = initial(e, where), initial(e, where)
    assert not torch.equal(first, second)
    assert 1.9 < first.std().item() < 2.1


def test_padding_and_chunks_do_not_change_the_start(
    tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]
) -> None:
    cfg = tiny_config(initial_state="noise", readout="last", injection="concat_linear")
    model = randomised(OpenMythos(cfg).double().eval())
    ids = torch.randint(37, (1, 5))
    want = model(ids, 2)
    padded = torch.cat((torch.zeros(1, 3, dtype=torch.int64), ids), dim=1)
    mask = torch.tensor([[0] * 3 + [1] * 5])
    torch.testing.assert_close(model(padded, 2, attention_mask=mask)[:, 3:], want)
    cache = model.new_cache(1, 5)
    parts = [model(ids[:, :3], 2, cache), model(ids[:, 3:], 2, cache)]
    torch.testing.assert_close(torch.cat(parts, 1), want)
    torch.manual_seed(0)
    graphed = model.generate(ids, 6, 2, temperature=0, static=True)
    torch.testing.assert_close(graphed, model.generate(ids, 6, 2, temperature=0, static=False))
