"""The linear injection is contracting whatever happens to its parameters."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.loop.injection import AddInjection, LTIInjection, build_injection


EXTREMES = [0.0, 1.0, -1.0, 50.0, -50.0, 1e4, -1e4, 1e38, -1e38, 3.4e38, -3.4e38]


def assert_inside(injection: LTIInjection, dtype: torch.dtype) -> None:
    a = injection.get_A()
    assert a.shape == injection.log_A.shape
    # Float16 ends at 6e-8, and the state is formed in float32 anyway.
    seen = a if dtype == torch.float16 else a.to(dtype)
    for value in (a, seen):
        assert (value > 0).all()
        assert (value < 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@given(
    log_a=st.lists(st.sampled_from(EXTREMES) | st.floats(-20, 20), min_size=1, max_size=5),
    log_dt=st.sampled_from(EXTREMES) | st.floats(-20, 20),
)
def test_a_lies_inside_for_any_finite_parameters(
    dtype: torch.dtype, log_a: list[float], log_dt: float
) -> None:
    injection = LTIInjection(len(log_a)).to(dtype)
    most = torch.finfo(dtype).max
    with torch.no_grad():
        values = torch.tensor(log_a, dtype=torch.float64).clamp(-most, most)
        injection.log_A.copy_(values.to(dtype))
        injection.log_dt.fill_(max(-most, min(most, log_dt)))
    assert_inside(injection, dtype)
    assert injection.spectral_radius() == injection.get_A().max().item() < 1
    h, e, f = torch.randn(3, 2, 3, len(log_a)).to(dtype)
    out = injection(h, e, f)
    assert out.isfinite().all()
    assert out.dtype == dtype
    out.sum().backward()
    for p in injection.parameters():
        assert p.grad is not None
        assert p.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("direction", [1.0, -1.0, 0.0])
def test_a_stays_inside_under_thirty_adam_steps_at_rate_one(
    dtype: torch.dtype, direction: float
) -> None:
    injection = LTIInjection(12).to(dtype)
    optimizer = torch.optim.Adam(injection.parameters(), lr=1.0)
    wish = torch.full((12,), direction) if direction else torch.randn(12)
    for _ in range(30):
        optimizer.zero_grad()
        h, e, f = (torch.randn(2, 3, 12).to(dtype) for _ in range(3))
        # Push A up (positive wish) or down, and the output about at random.
        noise = torch.randn(2, 3, 12).to(dtype)
        loss = (-wish * injection.get_A()).sum() + 0.01 * (injection(h, e, f) * noise).sum()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in injection.parameters())
        optimizer.step()
        assert_inside(injection, dtype)


@given(decay=st.floats(1e-30, 0.9999), dim=st.integers(1, 5))
def test_lti_decay_is_where_a_starts(decay: float, dim: int) -> None:
    injection = LTIInjection(dim, decay)
    torch.testing.assert_close(
        injection.get_A(), torch.full((dim,), decay), rtol=2e-4, atol=1e-7, check_dtype=False
    )
    assert injection.B.allclose(torch.tensor(0.1))


def test_the_default_start_is_one_over_e() -> None:
    a = LTIInjection(3).get_A()
    assert a.tolist() == pytest.approx([math.exp(-1)] * 3, rel=1e-6)


def test_state_update_is_the_equation() -> None:
    injection = LTIInjection(4).double()
    with torch.no_grad():
        injection.log_A.normal_()
        injection.log_dt.normal_()
        injection.B.normal_()
    h, e, f = torch.randn(3, 2, 5, 4, dtype=torch.float64)
    a = (-(injection.log_dt + injection.log_A).exp()).exp()
    torch.testing.assert_close(injection(h, e, f), a * h + injection.B * e + f)
    torch.testing.assert_close(injection.get_A(), a)


def test_without_input_the_state_decays_to_nothing() -> None:
    injection = LTIInjection(6)
    with torch.no_grad():
        injection.log_A.normal_()
    h, zero = torch.randn(1, 2, 6), torch.zeros(1, 2, 6)
    for _ in range(50):
        shorter = injection(h, zero, zero)
        assert (shorter.abs() <= h.abs()).all()
        h = shorter
    bound = injection.spectral_radius() ** 50 * 10 + 1e-30
    assert h.abs().max().item() <= bound


@pytest.mark.parametrize("decay", [0.01, 0.9])
def test_training_can_move_a_both_ways_from_its_start(decay: float) -> None:
    for sign in (1.0, -1.0):
        injection = LTIInjection(3, decay)
        (sign * injection.get_A().sum()).backward()
        assert injection.log_A.grad is not None
        assert (injection.log_A.grad * -sign > 0).all()


def test_add_hands_the_block_output_on(tiny_config: Callable[..., MythosConfig]) -> None:
    injection = build_injection(tiny_config(injection="add"))
    assert isinstance(injection, AddInjection)
    h, e, f = torch.randn(3, 1, 2, 16)
    assert torch.equal(injection(h, e, f), f)
    lti = build_injection(tiny_config(lti_decay=0.25))
    assert isinstance(lti, LTIInjection)
    assert lti.get_A().tolist() == pytest.approx([0.25] * 16, rel=1e-5)
