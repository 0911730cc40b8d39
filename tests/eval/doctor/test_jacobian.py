"""Against the explicit Jacobian of all positions jointly, by torch's own, and LAPACK."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.batch import Batch
from open_mythos.errors import InputError
from open_mythos.eval.doctor.jacobian import loop_jacobian, spaced
from open_mythos.model.mythos import OpenMythos
from open_mythos.model.view import look
from open_mythos.nn.block import run_blocks


Config = Callable[..., MythosConfig]
Shake = Callable[..., Any]
LENGTH = 6


def explicit(model: OpenMythos, ids: Tensor, n_loops: int) -> Tensor:
    """dh'/dh of loop number n_loops of one row, (S * dim, S * dim), of a loop that knows no number.

    One loop from any state is a pass of one loop that starts there.
    """
    context = look(ids, 0, None, model.cfg).context
    with torch.no_grad():
        e = run_blocks(model.prelude, model.embed(ids), context, None)

    def loop(h: Tensor) -> Tensor:
        value, _ = model.recurrent.run(h, e, context, 1)
        return value

    h = e
    with torch.no_grad():
        for _ in range(n_loops - 1):
            h = loop(h)
    whole = jacobian(loop, h)
    assert isinstance(whole, Tensor)
    return whole.reshape(h.numel(), h.numel())


@pytest.mark.parametrize("injection", ["lti", "add"])
def test_the_radius_is_that_of_the_whole_row(
    tiny_config: Config, randomised: Shake, attn_type: str, injection: str
) -> None:
    cfg = tiny_config(
        attn_type=attn_type, injection=injection, readout="last", loop_index=False, loop_lora=False
    )
    model = randomised(OpenMythos(cfg)).double().eval()
    ids = torch.randint(cfg.vocab_size, (2, LENGTH))
    learnt = [p.requires_grad for p in model.parameters()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = loop_jacobian(model, Batch(ids, ids), 3, positions=LENGTH)
    rows = [explicit(model, ids[row : row + 1], 3) for row in range(2)]
    radii = [float(torch.linalg.eigvals(row).abs().max()) for row in rows]
    assert found.exact
    assert found.radius == pytest.approx(max(radii), rel=1e-6)
    for row, wanted in enumerate(radii):
        own = found.radii[row * LENGTH : (row + 1) * LENGTH]
        assert max(own) == pytest.approx(wanted, rel=1e-6)
    values = [float(torch.linalg.svdvals(row)[0]) for row in rows]
    assert found.stretch == pytest.approx(max(values), rel=0.01)
    assert found.stretch <= max(values) * (1 + 1e-6)
    grown = loop_jacobian(model, Batch(ids, ids), 3, positions=LENGTH, exact=False)
    assert not grown.exact
    assert grown.radius == pytest.approx(max(radii), rel=0.05)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == learnt


@pytest.mark.parametrize(
    "changes",
    [
        {"readout": "act"},
        {"readout": "act", "halted": "freeze"},
        {"readout": "last", "kv": "last"},
        {"readout": "last", "loop_index": True, "loop_lora": True},
    ],
    ids=str,
)
def test_the_first_loop_of_every_design(
    tiny_config: Config, randomised: Shake, changes: dict[str, Any]
) -> None:
    model = randomised(OpenMythos(tiny_config(**changes))).double().eval()
    ids = torch.randint(37, (1, LENGTH))
    found = loop_jacobian(model, Batch(ids, ids), 1, positions=LENGTH)
    wanted = torch.linalg.eigvals(explicit(model, ids, 1)).abs().max()
    assert found.radius == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"injection": "hyper", "streams": 3},
        {"injection": "concat_linear", "loop_norm": "none", "block_norm": "pre_post"},
        {"injection": "lti_first", "input_write": "euler", "input_matrix": True},
        {"injection": "none", "loop_norm": "post", "core_ffn": "dense"},
        {"injection": "damped", "core_layers": 2, "untied_router": True},
    ],
    ids=lambda changes: changes["injection"],
)
def test_a_state_of_any_width_and_a_core_of_any_depth(
    tiny_config: Config, randomised: Shake, changes: dict[str, Any]
) -> None:
    """Against the loop's two halves written out: what the core says, and what becomes of it."""
    cfg = tiny_config(readout="last", initial_state="noise", **changes)
    model = randomised(OpenMythos(cfg)).double().eval()
    loop, ids = model.recurrent, torch.randint(37, (1, LENGTH))
    view = look(ids, 0, None, cfg)
    with torch.no_grad():
        x = run_blocks(model.prelude, model.embed(ids), view.context, None)
        start, e = loop.begin(x, view.where)
        constants = loop.constants(1, start)

    def once(h: Tensor) -> Tensor:
        known = constants.coefficients
        f, _ = loop.think(h, e, constants.ticks[0], view.context, coefficients=known)
        new: Tensor = loop.injection(h, e, f, known)
        return new if loop.post_norm is None else loop.post_norm(new)

    h = loop.injection.spread(start)
    whole = jacobian(once, h)
    assert isinstance(whole, Tensor)
    wanted = torch.linalg.eigvals(whole.reshape(h.numel(), h.numel())).abs().max()
    found = loop_jacobian(model, Batch(ids, ids), 1, positions=LENGTH)
    assert found.exact
    assert found.radius == pytest.approx(float(wanted), rel=1e-6)


def test_halted_positions_count_as_if_they_went_on(tiny_config: Config, randomised: Shake) -> None:
    """A frozen state has a radius of one, which would say nothing of the loop."""
    cfg = tiny_config(readout="act", halted="freeze", loop_index=False, loop_lora=False)
    model = randomised(OpenMythos(cfg)).double().eval()
    model.recurrent.act.requires_grad_(False)
    model.recurrent.act.halt.weight.zero_()
    model.recurrent.act.halt.bias.fill_(9.0)  # all halt in the first loop
    ids = torch.randint(37, (1, LENGTH))
    found = loop_jacobian(model, Batch(ids, ids), 2, positions=LENGTH)
    # In the second loop every state is still what the first one made of it.
    wanted = torch.linalg.eigvals(explicit(model, ids, 2)).abs().max()
    assert found.radius == pytest.approx(float(wanted), rel=1e-6)


def test_a_diagonal_loop_has_the_radius_of_its_diagonal(tiny_config: Config) -> None:
    """Nothing but the carry: the block writes zeros on zeros, and A is what is left of dh'/dh."""
    cfg = tiny_config(readout="last", loop_index=False, loop_lora=False)
    model = OpenMythos(cfg).eval().double()
    with torch.no_grad():
        model.recurrent.norm.weight.zero_()
        model.recurrent.injection.log_A.copy_(torch.linspace(-3.0, 1.0, cfg.dim))
    ids = torch.randint(37, (1, LENGTH))
    found = loop_jacobian(model, Batch(ids, ids), 2)
    wanted = model.recurrent.injection.spectral_radius()
    assert found.radii == pytest.approx([wanted] * 4, rel=1e-9)
    assert found.stretch == pytest.approx(wanted, rel=1e-3)


def test_a_state_that_is_no_number_has_no_jacobian(tiny_config: Config) -> None:
    model = OpenMythos(tiny_config()).eval()
    with torch.no_grad():
        model.recurrent.injection.B.fill_(float("inf"))
    ids = torch.randint(37, (1, LENGTH))
    with pytest.raises(InputError, match="not finite at loop 2"):
        loop_jacobian(model, Batch(ids, ids), 2)


def test_positions_are_evenly_apart_and_end_at_the_last() -> None:
    assert spaced(8, 4) == [1, 3, 5, 7]
    assert spaced(3, 4) == [0, 1, 2]
    assert spaced(100, 3) == [32, 65, 99]
