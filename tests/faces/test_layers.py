"""Every layer by itself, called as in open-mythos 0.5.0 and computed again by hand.

The hand computation reads the weights under their published names, so that it also shows that
names whose storage is fused or stacked answer with the real values.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from open_mythos.main import (
    ACTHalting,
    Expert,
    GQAttention,
    LoRAAdapter,
    LTIInjection,
    MLAttention,
    MoEFFN,
    MythosConfig,
    OpenMythos,
    RecurrentBlock,
    RMSNorm,
    TransformerBlock,
    apply_rope,
    loop_index_embedding,
    precompute_rope_freqs,
)


B, T, D = 2, 6, 16
Config = Callable[..., MythosConfig]
Shake = Callable[..., Any]


def close(got: Tensor, want: Tensor, tolerance: float = 2e-5) -> bool:
    return got.shape == want.shape and bool((got - want).abs().max() <= tolerance)


def table(cfg: MythosConfig, length: int = T) -> Tensor:
    return precompute_rope_freqs(cfg.rope_dim, length, cfg.rope_theta)


def causal(length: int) -> Tensor:
    return OpenMythos._causal_mask(length, torch.device("cpu"), torch.float32)


def rotated(x: Tensor, theta: float, start: int = 0) -> Tensor:
    """Each pair of channels turned by position * theta ** (-2 i / d), one number at a time."""
    out, d = torch.empty_like(x), x.shape[-1]
    for t in range(x.shape[1]):
        for i in range(d // 2):
            angle = (start + t) * theta ** (-2 * i / d)
            c, s = math.cos(angle), math.sin(angle)
            a, b = x[:, t, :, 2 * i], x[:, t, :, 2 * i + 1]
            out[:, t, :, 2 * i], out[:, t, :, 2 * i + 1] = a * c - b * s, a * s + b * c
    return out


def softmax_mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of (B, T, H, e) by its definition."""
    scores = torch.einsum("bthe,bshe->bhts", q, k) / math.sqrt(q.shape[-1])
    hidden = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(hidden, -math.inf).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.einsum("bhts,bshe->bthe", weights, v)


# -- functions ------------------------------------------------------------------------------------


def test_the_rotary_table_holds_unit_phasors() -> None:
    freqs = precompute_rope_freqs(6, 50, theta=100.0)
    assert freqs.dtype == torch.complex64
    assert freqs.shape == (50, 3)
    assert torch.allclose(freqs.abs(), torch.ones(50, 3))
    for position, pair in ((0, 0), (1, 0), (49, 2), (17, 1)):
        angle = position * 100.0 ** (-2 * pair / 6)
        assert complex(freqs[position, pair]) == pytest.approx(
            complex(math.cos(angle), math.sin(angle)), abs=1e-6
        )
    assert torch.equal(precompute_rope_freqs(6, 9), precompute_rope_freqs(6, 9, 500000.0))


def test_apply_rope_turns_pairs_and_uses_the_first_rows_of_a_longer_table() -> None:
    x = torch.randn(B, T, 3, 8)
    want = rotated(x, 500000.0)
    assert close(apply_rope(x, precompute_rope_freqs(8, T)), want)
    assert close(apply_rope(x, precompute_rope_freqs(8, T + 9)), want)
    assert close(apply_rope(x, precompute_rope_freqs(8, T + 9)[3:]), rotated(x, 500000.0, start=3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_apply_rope_keeps_the_dtype(dtype: torch.dtype) -> None:
    assert apply_rope(torch.randn(1, 4, 2, 8).to(dtype), precompute_rope_freqs(8, 4)).dtype == dtype


def test_a_table_that_is_too_short_or_too_narrow_is_a_runtime_error() -> None:
    with pytest.raises(RuntimeError, match=r"5 positions.*6"):
        apply_rope(torch.randn(B, T, 3, 8), precompute_rope_freqs(8, T - 1))
    with pytest.raises(RuntimeError, match="8"):
        apply_rope(torch.randn(B, T, 3, 8), precompute_rope_freqs(4, T))


@pytest.mark.parametrize(("loop_t", "loop_dim", "theta"), [(0, 4, 1e4), (3, 4, 1e4), (7, 6, 50.0)])
def test_the_loop_index_is_a_sinusoid_in_the_leading_channels(
    loop_t: int, loop_dim: int, theta: float
) -> None:
    h = torch.randn(B, T, D)
    added = loop_index_embedding(h, loop_t, loop_dim, theta) - h
    angles = [loop_t * theta ** (-2 * i / loop_dim) for i in range(loop_dim // 2)]
    want = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    assert close(added[..., :loop_dim], torch.tensor(want).expand(B, T, loop_dim), 1e-5)
    assert not added[..., loop_dim:].any()


# -- small layers ---------------------------------------------------------------------------------


def test_rms_norm(randomised: Shake) -> None:
    norm, x = randomised(RMSNorm(D, eps=0.01)), torch.randn(B, T, D)
    want = x / (x.square().mean(-1, keepdim=True) + 0.01).sqrt() * norm.weight
    assert close(norm(x), want)
    assert RMSNorm(D).eps == 1e-6


def test_expert_is_a_swiglu_of_its_named_parts() -> None:
    expert, x = Expert(D, 10), torch.randn(B, T, D)
    assert expert.gate.weight.shape == expert.up.weight.shape == (10, D)
    assert expert.down.weight.shape == (D, 10)
    gate = x @ expert.gate.weight.T
    want = (gate * gate.sigmoid() * (x @ expert.up.weight.T)) @ expert.down.weight.T
    assert close(expert(x), want)
    assert close(expert.down(F.silu(expert.gate(x)) * expert.up(x)), want)
    assert expert.gate.bias is None
    assert (expert.gate.in_features, expert.up.out_features) == (D, 10)


def test_lora_adapter(randomised: Shake) -> None:
    lora, x = LoRAAdapter(D, 3, 4), torch.randn(B, T, D)
    assert not torch.allclose(lora(x, 0), lora(x, 1))  # at the default start already
    randomised(lora)
    for t in range(4):
        assert close(lora(x, t), (x @ lora.down.weight.T * lora.scale.weight[t]) @ lora.B)
    assert torch.equal(lora(x, 4), lora(x, 3))
    assert torch.equal(lora(x, 90), lora(x, 3))


def test_lti_injection(randomised: Shake) -> None:
    injection = LTIInjection(D)
    assert torch.allclose(injection.get_A(), torch.full((D,), math.exp(-1.0)))
    assert torch.allclose(injection.B, torch.full((D,), 0.1))
    assert injection.get_A().requires_grad
    randomised(injection).requires_grad_(False)
    h, e, f = torch.randn(3, B, T, D)
    a = (-(injection.log_dt + injection.log_A).exp()).exp()
    assert injection.get_A().shape == (D,)
    assert close(injection.get_A(), a)
    assert close(injection(h, e, f), a * h + injection.B * e + f)
    assert injection.spectral_radius() == pytest.approx(float(a.max()))
    assert isinstance(injection.spectral_radius(), float)


def test_act_halting(randomised: Shake) -> None:
    act, h = randomised(ACTHalting(D)), torch.randn(B, T, D)
    want = torch.sigmoid(h @ act.halt.weight[0] + act.halt.bias)
    assert act(h).shape == (B, T)
    assert close(act(h), want)


# -- attention ------------------------------------------------------------------------------------


def by_hand_gqa(layer: GQAttention, x: Tensor, cfg: MythosConfig) -> Tensor:
    d, groups = cfg.dim // cfg.n_heads, cfg.n_heads // cfg.n_kv_heads
    q, k, v = (
        (x @ w.weight.T).view(B, -1, w.weight.shape[0] // d, d)
        for w in (layer.wq, layer.wk, layer.wv)
    )
    k, v = (t.repeat_interleave(groups, dim=2) for t in (rotated(k, cfg.rope_theta), v))
    return softmax_mix(rotated(q, cfg.rope_theta), k, v).flatten(2) @ layer.wo.weight.T


def by_hand_mla(layer: MLAttention, x: Tensor, cfg: MythosConfig) -> Tensor:
    heads, r = cfg.n_heads, cfg.kv_lora_rank
    c_q = layer.q_norm(x @ layer.q_down.weight.T)
    q_nope = (c_q @ layer.q_up_nope.weight.T).view(B, -1, heads, cfg.qk_nope_head_dim)
    q_rope = (c_q @ layer.q_up_rope.weight.T).view(B, -1, heads, cfg.qk_rope_head_dim)
    kv = x @ layer.kv_down.weight.T
    up = (layer.kv_norm(kv[..., :r]) @ layer.kv_up.weight.T).view(B, -1, heads, 11)
    k_rope = rotated(kv[..., None, r:], cfg.rope_theta).expand(-1, -1, heads, -1)
    q = torch.cat((q_nope, rotated(q_rope, cfg.rope_theta)), dim=-1)
    k = torch.cat((up[..., : cfg.qk_nope_head_dim], k_rope), dim=-1)
    return softmax_mix(q, k, up[..., cfg.qk_nope_head_dim :]).flatten(2) @ layer.wo.weight.T


def attention(cfg: MythosConfig) -> Any:
    return MLAttention(cfg) if cfg.attn_type == "mla" else GQAttention(cfg)


@torch.no_grad()
def test_attention_is_its_equations(tiny_config: Config, randomised: Shake, attn_type: str) -> None:
    cfg = tiny_config(attn_type=attn_type, rope_theta=20.0)
    layer, x = randomised(attention(cfg)), torch.randn(B, T, cfg.dim)
    hand = (by_hand_mla if attn_type == "mla" else by_hand_gqa)(layer, x, cfg)
    assert close(layer(x, table(cfg), causal(T)), hand)
    assert close(layer(x, table(cfg, 40), mask=causal(T)), hand)
    unseen = layer(x, table(cfg))  # no mask hides nothing
    assert close(unseen[:, -1], hand[:, -1])
    assert not close(unseen[:, 0], hand[:, 0], 1e-3)


@torch.no_grad()
def test_attention_extends_the_callers_dict(
    tiny_config: Config, randomised: Shake, attn_type: str
) -> None:
    cfg = tiny_config(attn_type=attn_type)
    layer, x, freqs = randomised(attention(cfg)), torch.randn(B, T, cfg.dim), table(cfg, 30)
    whole = layer(x, freqs, causal(T))
    cache: dict[str, Any] = {}
    first = layer(x[:, :3], freqs, causal(3), cache, "mine")
    assert set(cache) == {"mine"}
    assert {t.shape[1] for t in cache["mine"].values()} == {3}
    rest = [layer(x[:, i : i + 1], freqs[i:], None, cache, cache_key="mine") for i in range(3, T)]
    assert close(torch.cat((first, *rest), dim=1), whole)
    per_token = sum(t[:, :1].numel() for t in cache["mine"].values()) // B
    if attn_type == "mla":
        assert per_token == cfg.kv_lora_rank + cfg.qk_rope_head_dim
    else:
        assert set(cache["mine"]) == {"k", "v"}
        assert cache["mine"]["k"].shape == (B, T, cfg.n_kv_heads, cfg.head_dim)
    layer(x[:, :1], freqs, None, cache)
    assert set(cache) == {"mine", "default"}


@torch.no_grad()
def test_a_second_chunk_longer_than_one_token_sees_the_whole_cache(
    tiny_config: Config, randomised: Shake, attn_type: str
) -> None:
    cfg = tiny_config(attn_type=attn_type)
    layer, x, freqs = randomised(attention(cfg)), torch.randn(B, T, cfg.dim), table(cfg)
    cache: dict[str, Any] = {}
    parts = [layer(x[:, :2], freqs, causal(2), cache), layer(x[:, 2:], freqs[2:], causal(4), cache)]
    assert close(torch.cat(parts, dim=1), layer(x, freqs, causal(T)))


@pytest.mark.parametrize("name", ["wq", "wk", "wv", "q_down", "q_up_nope", "q_up_rope", "kv_down"])
@torch.no_grad()
def test_writing_through_a_named_part_changes_the_layer(tiny_config: Config, name: str) -> None:
    cfg = tiny_config(attn_type="gqa" if name.startswith("w") else "mla")
    layer, x = attention(cfg), torch.randn(B, T, cfg.dim)
    before, total = layer(x, table(cfg)), sum(p.abs().sum() for p in layer.parameters())
    part = getattr(layer, name).weight
    size = part.abs().sum()
    part.mul_(3.0)
    assert not close(layer(x, table(cfg)), before, 1e-9)
    after = sum(p.abs().sum() for p in layer.parameters())
    assert float(after - total) == pytest.approx(float(2 * size), rel=1e-3)


# -- mixture of experts ---------------------------------------------------------------------------


def by_hand_moe(ffn: MoEFFN, x: Tensor, skip: Callable[[int], bool] = lambda _: False) -> Tensor:
    out = torch.zeros_like(x)
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            token = x[b, t]
            logits = ffn.router.weight @ token
            chosen = (logits + ffn.router_bias).sort(descending=True).indices[: ffn.topk].tolist()
            scores = logits.softmax(-1)[chosen]
            for weight, i in zip(scores / scores.sum(), chosen, strict=True):
                if not skip(i):
                    out[b, t] += weight * ffn.routed_experts[i](token)
            for shared in ffn.shared_experts:
                hidden = F.silu(shared.gate.weight @ token) * (shared.up.weight @ token)
                out[b, t] += shared.down.weight @ hidden
    return out


@pytest.mark.parametrize(("n_shared", "k"), [(2, 2), (0, 5), (1, 1)])
@torch.no_grad()
def test_moe_is_its_equations(
    tiny_config: Config, randomised: Shake, n_shared: int, k: int
) -> None:
    cfg = tiny_config(n_shared_experts=n_shared, n_experts_per_tok=k)
    ffn, x = randomised(MoEFFN(cfg)), torch.randn(B, T, cfg.dim)
    ffn.router_bias.normal_(std=0.5)
    assert ffn.topk == k
    assert len(ffn.routed_experts) == cfg.n_experts
    assert len(ffn.shared_experts) == n_shared
    assert ffn.router.weight.shape == (cfg.n_experts, cfg.dim)
    assert ffn.router_bias.shape == (cfg.n_experts,)
    assert close(ffn(x), by_hand_moe(ffn, x))


@torch.no_grad()
def test_expert_views_have_the_old_shapes_and_write_through(
    tiny_config: Config, randomised: Shake
) -> None:
    cfg = tiny_config(n_shared_experts=2)
    ffn, x = randomised(MoEFFN(cfg)), torch.randn(B, T, cfg.dim)
    for expert in ffn.routed_experts:
        assert expert.gate.weight.shape == expert.up.weight.shape == (cfg.expert_dim, cfg.dim)
        assert expert.down.weight.shape == (cfg.dim, cfg.expert_dim)
    wide = cfg.expert_dim * cfg.n_experts_per_tok
    for shared in ffn.shared_experts:
        assert shared.gate.weight.shape == (wide, cfg.dim)
        assert shared.down.weight.shape == (cfg.dim, wide)
    views = [e for group in (ffn.routed_experts, ffn.shared_experts) for e in group]
    numbers = sum(p.weight.numel() for e in views for p in (e.gate, e.up, e.down))
    assert numbers == sum(p.numel() for p in ffn.parameters()) - ffn.router.weight.numel()
    ffn.routed_experts[-1].down.weight.zero_()
    silent = cfg.n_experts - 1
    assert close(ffn(x), by_hand_moe(ffn, x, skip=lambda i: i == silent))
    assert not ffn.routed_experts[silent](x).any()


def test_the_experts_can_be_sliced_like_a_module_list(tiny_config: Config) -> None:
    ffn = MoEFFN(tiny_config())
    some = ffn.routed_experts[1:3]
    assert len(some) == 2
    assert torch.equal(some[0].up.weight, ffn.routed_experts[1].up.weight)
    with pytest.raises(IndexError):
        ffn.routed_experts[ffn.n_experts]


# -- blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_moe", [False, True])
@torch.no_grad()
def test_a_block_is_two_residual_lines(
    tiny_config: Config, randomised: Shake, attn_type: str, use_moe: bool
) -> None:
    cfg = tiny_config(attn_type=attn_type)
    block, x, freqs = randomised(TransformerBlock(cfg, use_moe)), torch.randn(B, T, D), table(cfg)
    y = x + block.attn(block.attn_norm(x), freqs, causal(T))
    assert close(block(x, freqs, causal(T)), y + block.ffn(block.ffn_norm(y)))
    assert isinstance(block.ffn, MoEFFN if use_moe else Expert)
    assert not hasattr(TransformerBlock(cfg).ffn, "router")
    cache: dict[str, Any] = {}
    parts = [
        block(x[:, :4], freqs, causal(4), cache, "b"),
        block(x[:, 4:5], freqs[4:], None, cache, "b"),
    ]
    assert close(torch.cat(parts, 1), block(x, freqs, causal(T))[:, :5])


def by_hand_loop(
    block: RecurrentBlock, h: Tensor, e: Tensor, cfg: MythosConfig, n_loops: int
) -> Tensor:
    """The contract's loop with Graves' weights, one position at a time."""
    states, probabilities = [], []
    for t in range(n_loops):
        x = block.norm(loop_index_embedding(h, t, cfg.dim // 8) + e)
        f = block.block(x, table(cfg, h.shape[1]), causal(h.shape[1]))
        f = f + block.lora(f, t)
        h = block.injection(h, e, f)
        states.append(h)
        probabilities.append(block.act(h))
    out = torch.zeros_like(h)
    for b in range(h.shape[0]):
        for s in range(h.shape[1]):
            left = 1.0
            for t in range(n_loops):
                p = float(probabilities[t][b, s])
                closing = 1.0 - left + p >= cfg.act_threshold or t == n_loops - 1
                weight = left if closing else p
                out[b, s] += weight * states[t][b, s]
                left -= weight
                if closing:
                    break
            assert left == pytest.approx(0.0, abs=1e-6)
    return out


@pytest.mark.parametrize("n_loops", [1, 2, 5])
@torch.no_grad()
def test_the_recurrent_block_is_the_contracts_loop(
    tiny_config: Config, randomised: Shake, attn_type: str, n_loops: int
) -> None:
    cfg = tiny_config(attn_type=attn_type)
    block = randomised(RecurrentBlock(cfg)).eval()
    h, e = torch.randn(2, B, T, cfg.dim)
    got = block(h, e, table(cfg), causal(T), n_loops)
    assert close(got, by_hand_loop(block, h, e, cfg, n_loops), 1e-4)


@torch.no_grad()
def test_the_recurrent_block_runs_max_loop_iters_by_default_and_fills_a_dict(
    tiny_config: Config, randomised: Shake, attn_type: str
) -> None:
    cfg = tiny_config(attn_type=attn_type)
    block = randomised(RecurrentBlock(cfg)).eval()
    h, e = torch.randn(2, B, T, cfg.dim)
    whole = block(h, e, table(cfg), causal(T))
    assert torch.equal(whole, block(h, e, table(cfg), causal(T), n_loops=cfg.max_loop_iters))
    cache: dict[str, Any] = {}
    parts = [block(h[:, :4], e[:, :4], table(cfg), causal(4), None, cache)]
    assert set(cache) == {f"recurrent_loop_{t}" for t in range(cfg.max_loop_iters)}
    for i in range(4, T):
        one = slice(i, i + 1)
        parts.append(block(h[:, one], e[:, one], table(cfg)[one], None, kv_cache=cache))
    assert close(torch.cat(parts, dim=1), whole, 1e-4)


@torch.no_grad()
def test_the_recurrent_block_refuses_a_dict_of_another_loop_count(tiny_config: Config) -> None:
    cfg = tiny_config()
    block, (h, e) = RecurrentBlock(cfg).eval(), torch.randn(2, B, T, cfg.dim)
    for first, second in ((2, 3), (3, 2)):
        cache: dict[str, Any] = {}
        block(h, e, table(cfg), causal(T), first, cache)
        with pytest.raises(ValueError, match=rf"(?s){first}.*{second}|{second}.*{first}"):
            block(h[:, :1], e[:, :1], table(cfg), None, second, cache)


@torch.no_grad()
def test_the_model_is_its_named_parts_in_order(
    tiny_config: Config, randomised: Shake, attn_type: str
) -> None:
    cfg = tiny_config(attn_type=attn_type, prelude_layers=2, coda_layers=2)
    model = randomised(OpenMythos(cfg)).eval()
    ids = torch.randint(0, cfg.vocab_size, (B, T))
    tables = model.freqs_cis_mla if attn_type == "mla" else model.freqs_cis
    mask = model._causal_mask(T, ids.device, torch.float32)
    x = model.embed(ids)
    for layer in model.prelude:
        x = layer(x, tables[:T], mask)
    x = model.recurrent(x, x, tables[:T], mask, 4)
    for layer in model.coda:
        x = layer(x, tables[:T], mask)
    assert close(model(ids, n_loops=4), model.head(model.norm(x)), 1e-4)
