"""The MoDA network equals its definition, whole, in chunks and one by one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from open_mythos.errors import CacheError, ConfigError, InputError
from open_mythos.moda import MoDAConfig, MoDAModel


Build = Callable[..., MoDAModel]
KINDS: list[dict[str, Any]] = [
    {},
    {"moe_score_func": "sigmoid", "moe_balance": "bias", "moe_n_groups": 3, "moe_topk_groups": 2},
    {"depth_from": "attention", "moe_n_groups": 3, "moe_topk_groups": 1},
    {"depth_from": "both", "block_norm": "pre", "n_shared_experts": 0},
    {"block_norm": "pre", "n_heads_kv": 4, "moe_score_func": "sigmoid"},
    {"n_layers": 1, "n_heads_kv": 1},
]


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def tokens(model: MoDAModel, rows: int, length: int) -> torch.Tensor:
    return torch.randint(model.cfg.vocab_size, (rows, length))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@torch.no_grad()
def test_equals_the_definition_whole_and_in_chunks(
    kind: dict[str, Any], build: Build, slow: Any
) -> None:
    model = build(**kind)
    ids = tokens(model, 2, 6)
    want = torch.stack([slow(model, row).logits for row in ids.tolist()])
    logits, loss = model(ids)
    assert loss is None
    close(logits, want)
    for split in ([1] * 6, [3, 1, 2], [1, 5], [5, 1]):
        cache = model.new_cache(2, 6)
        parts = [model(part, cache=cache)[0] for part in ids.split(split, dim=1)]
        close(torch.cat(parts, dim=1), want)
        assert cache.length == 6


@torch.no_grad()
def test_a_row_is_the_same_alone(build: Build) -> None:
    model = build(depth_from="both")
    ids = tokens(model, 3, 7)
    together = model(ids)[0]
    for row in range(3):
        close(model(ids[row : row + 1])[0][0], together[row])


@pytest.mark.parametrize("depth_from", ["ffn", "attention", "both"])
def test_a_position_depends_on_itself_and_those_before_it_alone(
    depth_from: str, build: Build
) -> None:
    model = build(depth_from=depth_from)
    ids = tokens(model, 1, 5)
    seen: list[torch.Tensor] = []
    hook = model.embed.register_forward_hook(
        lambda *call: seen.append(call[-1].detach().requires_grad_()) or seen[-1]
    )
    logits = model(ids)[0]
    hook.remove()
    for t in range(5):
        (slope,) = torch.autograd.grad(logits[0, t].sum(), seen[0], retain_graph=True)
        reached = slope[0].abs().sum(-1)
        assert (reached[: t + 1] > 0).all()
        assert (reached[t + 1 :] == 0).all()


def test_every_parameter_has_a_part(build: Build) -> None:
    model = build(n_layers=2, depth_from="both", block_norm="pre").train()
    ids = tokens(model, 4, 9)
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


@torch.no_grad()
def test_what_a_layer_writes_is_read_above(build: Build) -> None:
    model = build()
    ids = tokens(model, 1, 4)
    before = model(ids)[0]
    model.blocks[0].write.weight.mul_(2.0)
    assert not torch.allclose(model(ids)[0], before)


# -- loss -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS[:3], ids=str)
def test_the_loss_is_cross_entropy_plus_balance_in_training(
    kind: dict[str, Any], build: Build, slow: Any
) -> None:
    model = build(**kind).train()
    t = tokens(model, 1, 8)
    ids, labels = t[:, :-1], t[:, 1:].clone()
    labels[0, 2] = -100
    want = slow(model, ids[0].tolist())
    cross = F.cross_entropy(want.logits, labels[0])
    extra = 0.3 * want.imbalance if model.cfg.moe_balance == "loss" else 0.0
    logits, loss = model(ids, labels)
    close(logits[0], want.logits)
    assert loss.item() == pytest.approx(cross.item() + extra, rel=1e-9)
    assert model.loss(ids, labels).item() == pytest.approx(loss.item(), rel=1e-9)
    model.eval()
    assert model(ids, labels)[1].item() == pytest.approx(cross.item(), rel=1e-9)


def test_both_ways_to_the_loss_have_one_gradient(build: Build) -> None:
    model = build().train()
    t = tokens(model, 2, 6)
    params = list(model.parameters())
    first = torch.autograd.grad(model(t[:, :-1], t[:, 1:])[1], params)
    for a, b in zip(
        first, torch.autograd.grad(model.loss(t[:, :-1], t[:, 1:]), params), strict=True
    ):
        close(a, b)


def test_nothing_scored_costs_the_balance_alone(build: Build) -> None:
    model = build(moe_balance_alpha=0.0).train()
    ids = tokens(model, 1, 3)
    assert model(ids, torch.full_like(ids, -100))[1].item() == 0.0


def test_labels_that_are_the_ids_get_a_warning(build: Build) -> None:
    model = build()
    ids = tokens(model, 1, 3)
    with pytest.warns(UserWarning, match="FOLLOWS"):
        model(ids, ids)


@torch.no_grad()
def test_the_bias_moves_towards_even_use(build: Build, slow: Any) -> None:
    model = build(moe_balance="bias").train()
    ids = tokens(model, 2, 6)
    model(ids)
    model(ids[:1])
    rows = [slow(model, row).loads for row in (*ids.tolist(), ids[0].tolist())]
    want = torch.tensor(rows).sum(0)
    before = [block.moe.router_bias.clone() for block in model.blocks]
    load = model.update_router_bias(0.01)
    assert torch.equal(load, want)
    for i, block in enumerate(model.blocks):
        step = block.moe.router_bias - before[i]
        mean = want[i].double().mean()
        for e in range(6):
            assert step[e].item() == pytest.approx(0.01 * (mean - want[i, e]).sign().item())
    assert model.update_router_bias().sum() == 0  # what was counted is forgotten
    model.eval()(ids)
    assert model.update_router_bias().sum() == 0  # evaluation is not counted


# -- generation -----------------------------------------------------------------------------------


@torch.no_grad()
def test_greedy_tokens_are_those_of_uncached_passes(build: Build) -> None:
    model = build(depth_from="both").train()
    ids = tokens(model, 2, 3)
    want = ids
    model.eval()
    for _ in range(5):
        want = torch.cat((want, model(want)[0][:, -1:].argmax(-1)), dim=1)
    model.train()
    assert torch.equal(model.generate(ids, 5, temperature=0.0), want)
    assert model.training
    assert torch.equal(model.generate(ids, 0), ids)


def test_draws_follow_the_generator(build: Build) -> None:
    model = build()
    ids = tokens(model, 3, 2)
    a, b, c = (
        model.generate(ids, 8, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_row_stops_at_its_end_token(build: Build) -> None:
    model = build()
    ids = tokens(model, 2, 3)
    free = model.generate(ids, 6, temperature=0.0)
    eos = int(free[0, 4])
    got = model.generate(ids, 6, temperature=0.0, eos_token_id=eos)
    for row, line in zip(got.tolist(), free.tolist(), strict=True):
        new = line[3:]
        cut = new.index(eos) + 1 if eos in new else 6
        want = [*new[:cut], *[eos] * (6 - cut)]
        assert row[3:] == want[: len(row) - 3]
        assert cut <= len(row) - 3


# -- the door -------------------------------------------------------------------------------------


def test_size_is_counted_by_hand(tiny: Callable[..., MoDAConfig]) -> None:
    cfg = tiny(depth_from="both", moe_balance="bias")
    model = MoDAModel(cfg)
    d, q, kv, f = 12, 24, 12, 5
    layer = d * (q + 2 * kv) + q * d + 2 * d + 6 * d + (6 + 2) * 3 * d * f
    assert model.num_parameters() == 19 * d + d + 3 * layer + 2 * 2 * kv * d
    model.embed.weight.requires_grad_(False)
    assert model.num_parameters(trainable_only=True) == model.num_parameters() - 19 * d


def test_a_config_changed_later_is_checked_and_not_shared(
    tiny: Callable[..., MoDAConfig],
) -> None:
    cfg = tiny()
    model = MoDAModel(cfg)
    cfg.n_heads_q = 5
    assert model.cfg.n_heads_q == 4
    with pytest.raises(ConfigError, match="n_heads_q"):
        MoDAModel(cfg)


def test_bad_input_is_refused(build: Build) -> None:
    model = build()
    ids = tokens(model, 2, 4)
    for wrong, words in (
        (ids[0], "batch, sequence"),
        (ids.float(), "integers"),
        (ids[:, :0], "empty"),
        (ids + 19, "outside"),
        (tokens(model, 1, 33), "max_seq_len"),
    ):
        with pytest.raises(InputError, match=words):
            model(wrong)
    for labels, words in ((ids[:1], "one target"), (ids + 19, "outside"), ([1], "one target")):
        with pytest.raises(InputError, match=words):
            model(ids, labels)
    with pytest.raises(InputError, match="logits_to_keep"):
        model(ids, ids.clone(), logits_to_keep=1)
    with pytest.raises(InputError, match="logits_to_keep"):
        model(ids, logits_to_keep=-1)
    with pytest.raises(InputError, match="max_new_tokens"):
        model.generate(ids, -1)
    with pytest.raises(InputError, match="max_seq_len"):
        model.generate(ids, 30)


@torch.no_grad()
def test_a_refused_call_leaves_the_cache_as_it_was(build: Build) -> None:
    model = build()
    ids = tokens(model, 2, 6)
    cache = model.new_cache(2, 5)
    first = model(ids[:, :4], cache=cache)[0]
    with pytest.raises(CacheError, match="5 positions"):
        model(ids[:, 4:], cache=cache)
    with pytest.raises(CacheError, match="rows"):
        model(ids[:1], cache=cache)
    with pytest.raises(CacheError, match="another config"):
        build(n_layers=2)(ids, cache=cache)
    with pytest.raises(CacheError, match="float64"):
        build().float()(ids, cache=cache)
    assert cache.length == 4
    cache.truncate(2)
    close(model(ids[:, 2:4], cache=cache)[0], first[:, 2:])


def test_logits_to_keep(build: Build) -> None:
    model = build()
    ids = tokens(model, 2, 5)
    whole = model(ids)[0]
    close(model(ids, logits_to_keep=2)[0], whole[:, -2:])
    assert model(ids, logits_to_keep=0)[0].shape == (2, 0, 19)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_narrow_weights_give_nearly_the_same(dtype: torch.dtype, build: Build) -> None:
    model = build()
    ids = tokens(model, 2, 8)
    want = model(ids)[0]
    got = model.to(dtype)(ids)[0].double()
    off = (got - want).norm() / want.norm()
    assert off < (1e-5 if dtype == torch.float32 else 0.1)


# -- other ways to run it -------------------------------------------------------------------------


@pytest.mark.slow
def test_it_compiles_whole_and_learns_the_same(build: Build) -> None:
    torch._dynamo.reset()
    model = build(n_layers=2, depth_from="both").train()
    t = tokens(model, 2, 6)
    whole = torch.compile(model, backend="aot_eager", fullgraph=True)
    _, got = whole(t[:, :-1], t[:, 1:])
    _, want = model(t[:, :-1], t[:, 1:])
    params = list(model.parameters())
    pairs = zip(torch.autograd.grad(got, params), torch.autograd.grad(want, params), strict=True)
    for a, b in pairs:
        close(a, b)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 5e-3), (torch.bfloat16, 0.05)])
def test_a_gpu_says_the_same(
    dtype: torch.dtype, most: float, tiny: Callable[..., MoDAConfig]
) -> None:
    """Logits, gradient and a cached pass, wide enough for kernels, against float64 on a CPU.

    Every token visits every expert: near ties of the router would be picked otherwise.
    """
    cfg = tiny(
        d_model=128,
        head_dim=64,
        n_activated_experts=6,
        expert_hidden_dim=64,
        n_layers=4,
        max_seq_len=300,
        init_std=0.08,
    )
    model = MoDAModel(cfg)
    t = tokens(model, 2, 257)
    there = MoDAModel(cfg).to("cuda", dtype)
    there.load_state_dict(model.state_dict())
    model.double()
    want, loss = model(t[:, :-1], t[:, 1:])
    loss.backward()
    got, said = there(t[:, :-1].cuda(), t[:, 1:].cuda())
    said.backward()

    def off(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(((a.double().cpu() - b).norm() / b.norm()).detach())

    assert off(got, want) < most
    for (name, a), b in zip(there.named_parameters(), model.parameters(), strict=True):
        assert off(a.grad, b.grad) < 10 * most, name
    there.eval()
    cache = there.new_cache(2, 256)
    ids = t[:, :-1].cuda()
    with torch.no_grad():
        parts = [there(part, cache=cache)[0] for part in ids.split([200, 1, 1, 54], dim=1)]
    assert off(torch.cat(parts, dim=1), want) < most


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_grows_with_the_length_and_not_with_its_square(
    tiny: Callable[..., MoDAConfig],
) -> None:
    cfg = tiny(d_model=128, head_dim=64, n_layers=4, max_seq_len=8192)
    model, peaks = MoDAModel(cfg).to("cuda", torch.bfloat16), []
    for length in (2048, 8192):
        ids = torch.randint(19, (1, length), device="cuda")
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        model.loss(ids, ids.roll(-1, 1)).backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        model.zero_grad(set_to_none=True)
    assert peaks[1] < 6 * peaks[0]
