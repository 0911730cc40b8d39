"""Named designs: each one's update is its published equation, on random weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from open_mythos.config.budget import parameters
from open_mythos.config.designs import DESIGNS, PARTS, design
from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import ConfigError
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.loop.adapter import loop_index_embedding
from open_mythos.nn.loop.readout import open_readout
from open_mythos.nn.rotary import rotary


Design = Callable[[str], OpenMythos]


@pytest.fixture
def build(tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]) -> Design:
    def make(name: str) -> OpenMythos:
        base = tiny_config(attn_type="gqa")
        model: OpenMythos = randomised(OpenMythos(design(name, base)).double().eval())
        return model

    return make


def update(model: OpenMythos, h: Tensor, e: Tensor, t: int) -> Tensor:
    """What one loop of the library makes of a state."""
    loop, cfg = model.recurrent, model.cfg
    known = loop.constants(t + 1, h)
    where = rotary(torch.arange(h.shape[1]), cfg.rope_dim, cfg.rope_theta)
    context = AttentionContext(where)
    readout = open_readout(cfg, h)
    return loop.turn(h, e, readout, known.ticks[t], context, coefficients=known.coefficients)[0]


def norm(x: Tensor, layer: Any) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.weight


def attn(block: Any, x: Tensor) -> Tensor:
    cfg = block.attn.cfg
    tables = rotary(torch.arange(x.shape[1]), cfg.rope_dim, cfg.rope_theta)
    context = AttentionContext(tables)
    q, new = block.attn.project(x, context.rotary)
    mixed: Tensor = block.attn.mix(q, new, context)
    return mixed


def pre(block: Any, x: Tensor) -> Tensor:
    x = x + attn(block, norm(x, block.attn_norm))
    return x + block.ffn(norm(x, block.ffn_norm))


def pair(model: OpenMythos) -> tuple[Tensor, Tensor]:
    h, e = torch.randn(2, 2, 4, model.cfg.dim, dtype=torch.float64)
    return h, e


def test_om05(build: Design) -> None:
    model = build("om05")
    (h, e), loop, t = pair(model), model.recurrent, 1
    assert loop.lora is not None
    x = norm(loop_index_embedding(h, t, model.cfg.dim // 8) + e, loop.norm)
    f = pre(loop.block, x)
    f = f + (f @ loop.lora.down.weight.T * loop.lora.scale.weight[t]) @ loop.lora.B
    a = torch.exp(-torch.exp(loop.injection.log_dt + loop.injection.log_A))
    torch.testing.assert_close(update(model, h, e, t), a * h + loop.injection.B * e + f)


def test_parcae(build: Design) -> None:
    """h_{t+1} = R(A h_t + B e), A = exp(dt diag(-a)), B = dt B', e = norm(prelude)."""
    model = build("parcae")
    (h, e), injection = pair(model), model.recurrent.injection
    dt, a = injection.log_dt.exp(), injection.log_A.exp()
    x = torch.exp(-dt * a) * h + dt * (e @ injection.B.T)
    torch.testing.assert_close(update(model, h, e, 0), pre(model.recurrent.block, x))
    said = torch.randn(1, 4, 16, dtype=torch.float64)
    start, given = model.recurrent.begin(said, torch.arange(4))
    torch.testing.assert_close(given, norm(said, model.recurrent.input_norm))
    assert not torch.equal(start, given)


def test_huginn(build: Design) -> None:
    """x = W [s; e]; x <- n2(x + attn(n1(x))); x <- n4(x + mlp(n3(x)))."""
    model = build("huginn")
    (h, e), block = pair(model), model.recurrent.block
    x = torch.cat((h, e), -1) @ model.recurrent.injection.mix.weight.T
    x = norm(x + attn(block, norm(x, block.attn_norm)), block.attn_out_norm)
    x = norm(x + block.ffn(norm(x, block.ffn_norm)), block.ffn_out_norm)
    torch.testing.assert_close(update(model, h, e, 2), x)


def test_ouro(build: Design) -> None:
    """The whole stack, sandwich-normed, then the final norm, whose output the next loop reads."""
    model = build("ouro")
    (h, e), loop = pair(model), model.recurrent
    assert not model.prelude
    assert not model.coda
    assert len(loop.blocks) == 3  # those of prelude and coda have moved into the loop
    x = h
    for block in loop.blocks:
        x = x + norm(attn(block, norm(x, block.attn_norm)), block.attn_out_norm)
        x = x + norm(block.ffn(norm(x, block.ffn_norm)), block.ffn_out_norm)
    torch.testing.assert_close(update(model, h, e, 1), norm(x, loop.post_norm))


def test_universal(build: Design) -> None:
    """A = norm(H + P + attn(H + P)), H' = norm(A + transition(A)), one block (arXiv 1807.03819)."""
    model = build("universal")
    (h, e), loop, t = pair(model), model.recurrent, 2
    x = loop_index_embedding(h, t, model.cfg.dim)
    for block in loop.blocks:
        x = norm(x + attn(block, x), block.attn_norm)
        x = norm(x + block.ffn(x), block.ffn_norm)
    torch.testing.assert_close(update(model, h, e, t), x)


def test_ours_is_contracting_in_its_linear_part_and_the_same_in_every_loop(build: Design) -> None:
    model = build("mythos")
    h, e = pair(model)
    torch.testing.assert_close(update(model, h, e, 0), update(model, h, e, 7))
    assert model.recurrent.injection.spectral_radius() < 1


@pytest.mark.parametrize("name", DESIGNS)
def test_a_design_keeps_the_sizes_and_settles_every_part(
    name: str, tiny_config: Callable[..., MythosConfig]
) -> None:
    odd = {"injection": "damped", "loop_norm": "sandwich", "initial_state": "learned"}
    made = design(name, tiny_config(**odd))
    assert made == design(name, tiny_config())
    for size in ("dim", "n_heads", "vocab_size", "max_loop_iters", "attn_type"):
        assert getattr(made, size) == getattr(tiny_config(), size)
    blocks = made.prelude_layers + made.core_layers + made.coda_layers
    assert blocks == 3
    assert set(DESIGNS[name]) - set(PARTS) <= {
        "readout",
        "loop_index",
        "loop_lora",
        "prelude_layers",
        "coda_layers",
    }
    model = OpenMythos(made)
    assert sum(p.numel() for p in model.parameters()) == parameters(made).total
    logits = model(torch.randint(37, (2, 6)), 3)
    assert logits.isfinite().all()


def test_an_unknown_design_is_refused_with_the_closest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'huginn'"):
        design("hugin", MythosConfig())
