"""The linear injection is contracting whatever happens to its parameters."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.config.mythos import InputWrite, MythosConfig
from open_mythos.nn.loop.injection import (
    AddInjection,
    DampedInjection,
    LTIInjection,
    build_injection,
)


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


def held(write: str, dt: float, a: torch.Tensor, b: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
    """What the input writes in a step dt of dh/dt = -a h + b e, from h = 0, in 20,000 steps."""
    if write == "euler":
        return dt * b * e
    h, n = torch.zeros_like(e), 20_000
    for _ in range(n):  # the midpoint rule
        middle = h + dt / (2 * n) * (b * e - a * h)
        h = h + dt / n * (b * e - a * middle)
    return h


@pytest.mark.parametrize("write", ["euler", "zoh"])
def test_the_input_writes_what_its_step_says(write: InputWrite) -> None:
    injection = LTIInjection(6, input_write=write).double()
    with torch.no_grad():
        for p in injection.parameters():
            p.copy_(torch.randn_like(p))
    e, zero = torch.randn(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    dt, a = injection.log_dt.exp().item(), injection.log_A.exp()
    want = held(write, dt, a, injection.B, e)
    torch.testing.assert_close(injection(zero, e, zero), want, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(injection.get_A(), (-dt * a).exp())


@given(log_a=st.floats(-80, 80), log_dt=st.floats(-80, 80))
def test_an_exact_write_is_finite_and_never_more_than_eulers(log_a: float, log_dt: float) -> None:
    gains = {}
    for write in ("euler", "zoh"):
        injection = LTIInjection(1, input_write=write)
        with torch.no_grad():
            injection.log_A.fill_(log_a)
            injection.log_dt.fill_(log_dt)
            injection.B.fill_(1.0)
        gains[write] = injection.coefficients().b.item()
    assert 0.0 <= gains["zoh"] <= gains["euler"] * (1 + 1e-6) < math.inf


def test_a_matrix_starts_as_identity_and_is_the_diagonal_one_where_it_is_diagonal() -> None:
    full, plain = LTIInjection(5, matrix=True), LTIInjection(5)
    assert torch.equal(full.B, torch.eye(5))
    with torch.no_grad():
        plain.B.copy_(torch.randn(5))
        full.B.copy_(plain.B.diag())
    h, e, f = torch.randn(3, 2, 3, 5)
    torch.testing.assert_close(full(h, e, f), plain(h, e, f))
    assert plain.fusable
    assert not full.fusable


@pytest.mark.parametrize(
    "kind", ["lti", "lti_first", "add", "none", "concat_linear", "damped", "substep", "hyper"]
)
def test_one_kernel_may_form_the_next_state_only_where_it_is_what_carry_says(
    kind: str, tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]
) -> None:
    injection = randomised(build_injection(tiny_config(injection=kind)))
    wide = 16 * injection.streams
    h, e, f = torch.randn(2, 3, wide), torch.randn(2, 3, 16), torch.randn(2, 3, 16)
    known = injection.coefficients()
    after = injection(h, e, f, known)
    assert after.shape == h.shape
    assert injection.gathered(injection.spread(e)).shape == e.shape
    if injection.fusable:
        a, b = injection.carry(known) or (0.0, 0.0)
        torch.testing.assert_close(after, a * h + b * e + f)
    torch.testing.assert_close(injection(h, e, f), after)  # formed by itself, where nobody did


def test_a_full_step_of_the_damped_injection_is_the_plain_one() -> None:
    h, e, f = torch.randn(3, 2, 3, 5)
    torch.testing.assert_close(DampedInjection(1.0)(h, e, f), AddInjection()(h, e, f))
    torch.testing.assert_close(DampedInjection(0.25)(h, e, f), 0.75 * h + 0.25 * f)
