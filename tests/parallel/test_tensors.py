"""A network divided over tensor ranks, against the whole one."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from open_mythos.generate.decode import lockstep
from open_mythos.parallel.division import joined
from open_mythos.parallel.spread import Spread
from open_mythos.parallel.tensors import with_kv_heads
from tests.parallel.twin import alike, alone, batch, learn, network, optimiser, spread_out, together
from tests.parallel.workers import Workers


NETWORKS: list[dict[str, Any]] = [
    {"attn_type": "gqa"},
    {"attn_type": "mla"},
    {"attn_type": "gqa", "kv": "first", "readout": "last"},
    {"attn_type": "mla", "halted": "freeze", "injection": "add"},
    {"attn_type": "gqa", "core_layers": 2, "core_ffn": "dense", "injection": "concat_linear"},
]
TENSOR = {"tensor": 2}


def slopes(model: Any, spread: Spread) -> tuple[Tensor, dict[str, Tensor]]:
    ids, _ = batch(1)
    out = spread.caller(model)(ids, 2, return_output=True)
    (out.logits.square().mean() + 0.1 * out.features.square().mean()).backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return out.logits.detach(), grads


def _gradients(changes: dict[str, Any]) -> Any:
    """Logits, and every gradient as its whole: joined by hand, not by a checkpoint."""
    model = network(**changes).double()
    team = spread_out(model, TENSOR)
    logits, grads = slopes(model, team)
    whole = {}
    for name, grad in grads.items():
        division = team.divisions.get(name)
        parts = [torch.empty_like(grad) for _ in range(2)]
        dist.all_gather(parts, grad.contiguous())
        if division is None:
            assert torch.equal(parts[0], parts[1]), name
        whole[name] = (parts[0] if division is None else joined(parts, division)).tolist()
    return logits.tolist(), whole, len(team.divisions)


@pytest.mark.parametrize("changes", NETWORKS, ids=str)
def test_every_gradient_is_that_of_the_whole_network(two: Workers, changes: dict[str, Any]) -> None:
    model = network(**changes).double()
    logits, grads = slopes(model, Spread())
    for found, whole, divided in two(_gradients, changes):
        torch.testing.assert_close(torch.tensor(found), logits.float())
        assert whole.keys() == grads.keys()
        for name, grad in whole.items():
            wanted = grads[name].float()
            torch.testing.assert_close(torch.tensor(grad), wanted, msg=name)
        dense = 2 + 2 * (changes.get("core_ffn") == "dense")  # feed-forwards, of two weights each
        layers = 2 + changes.get("core_layers", 1)
        per_layer = 3 if changes["attn_type"] == "mla" else 2
        assert divided == 1 + layers * per_layer + 2 * dense


def _drift(changes: dict[str, Any]) -> tuple[bool, int]:
    """Whether all that is not divided stays the same on both ranks, to the bit."""
    model = network(**changes)
    team = spread_out(model, TENSOR)
    learn(model, team, optimiser(model), range(8))
    same = [(n, p.detach()) for n, p in model.named_parameters() if n not in team.divisions]
    same += list(model.named_buffers())
    return all(alike(value) for _, value in same), len(same)


@pytest.mark.parametrize("changes", NETWORKS[:2], ids=str)
def test_what_is_on_both_ranks_stays_the_same_to_the_bit(
    two: Workers, changes: dict[str, Any]
) -> None:
    for same, count in two(_drift, changes):
        assert same
        assert count > 15


def _narrow() -> list[float]:
    return together(TENSOR, steps=4, how={"dtype": torch.bfloat16})


def test_sixteen_bits_and_tensor_ranks_go_together(two: Workers) -> None:
    expected = alone(steps=4)
    for losses in two(_narrow):
        torch.testing.assert_close(losses, expected, rtol=0, atol=0.03)


def _load() -> tuple[list[int], list[int]]:
    model = network()
    spread_out(model, TENSOR)
    out = model(batch(0)[0], 2, return_output=True)
    return out.router_load.sum(0).tolist(), model.update_router_bias().tolist()


def test_tokens_that_both_ranks_route_are_counted_once(two: Workers) -> None:
    for own, total in two(_load):
        assert own == total


def write(model: Any, static: bool) -> list[list[int]]:
    prompt = torch.arange(6).view(2, 3)
    draw = torch.Generator().manual_seed(5)
    how = {"n_loops": 2, "generator": draw, "static": static}
    tokens: list[list[int]] = model.generate(prompt, 6, **how).tolist()
    return tokens


def _written(changes: dict[str, Any]) -> Any:
    model = network(**changes)
    assert not spread_out(model, TENSOR).independent
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, dtype=torch.int64), 2, cache := {})
    return write(model, False), write(model, True), sum(len(entries) for entries in cache.values())


@pytest.mark.parametrize("changes", NETWORKS[:2], ids=str)
def test_ranks_that_share_heads_write_together(two: Workers, changes: dict[str, Any]) -> None:
    tokens = write(network(**changes), False)
    for plain, static, entries in two(_written, changes):
        assert plain == static == tokens
        assert entries == 2 * (1 + 2 + 1)


def test_ranks_that_talk_in_a_pass_are_not_captured() -> None:
    model = network()
    assert not lockstep(model)
    model.recurrent.lockstep = True
    assert lockstep(model)


def test_only_the_caches_learn_of_fewer_heads() -> None:
    cfg = network(attn_type="gqa").cfg
    local = with_kv_heads(cfg, 1)
    assert local.to_dict() == cfg.to_dict()
    assert local.cache_widths == {"k": (1, 4), "v": (1, 4)}
    assert cfg.cache_widths == {"k": (2, 4), "v": (2, 4)}
