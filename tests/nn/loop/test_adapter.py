"""What differs between loops."""

import math

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.errors import InputError
from open_mythos.nn.loop.adapter import LoRAAdapter, loop_index_embedding, loop_signals


@given(
    t=st.integers(0, 100),
    half=st.integers(1, 5),
    rest=st.integers(0, 4),
    theta=st.sampled_from([100.0, 10000.0]),
)
def test_signal_is_sines_then_cosines(t: int, half: int, rest: int, theta: float) -> None:
    signals = loop_signals(2, 2 * half, 2 * half + rest, theta, first=t)
    assert signals.shape == (2, 2 * half + rest)
    for loop, signal in zip((t, t + 1), signals, strict=True):
        angles = [loop * theta ** (-2 * i / (2 * half)) for i in range(half)]
        want = [math.sin(a) for a in angles] + [math.cos(a) for a in angles] + [0.0] * rest
        assert signal.tolist() == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("loop_dim", [0, 1, 3])
def test_odd_and_empty_widths(loop_dim: int) -> None:
    h = torch.randn(2, 3, 5)
    out = loop_index_embedding(h, 2, loop_dim)
    assert torch.equal(out[..., loop_dim:], h[..., loop_dim:])
    assert out.isfinite().all()
    assert (out[..., :loop_dim] != h[..., :loop_dim]).all()


def test_every_position_gets_the_same_and_loops_differ() -> None:
    h = torch.randn(2, 3, 16)
    one, two = (loop_index_embedding(h, t, 4) - h for t in (1, 2))
    torch.testing.assert_close(one, one[:1, :1].expand_as(one))
    assert not torch.allclose(one, two)
    assert loop_index_embedding(h.bfloat16(), 1, 4).dtype == torch.bfloat16


@pytest.mark.parametrize("loop_dim", [-1, 17])
def test_a_signal_wider_than_the_state_is_refused(loop_dim: int) -> None:
    with pytest.raises(InputError, match="loop_dim"):
        loop_index_embedding(torch.zeros(1, 1, 16), 0, loop_dim)


def test_adapter_is_its_formula() -> None:
    lora = LoRAAdapter(6, 3, 4).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    for t in range(6):
        row = lora.scale.weight[min(t, 3)]
        want = ((x @ lora.down.weight.T) * row) @ lora.B
        torch.testing.assert_close(lora(x, t), want)


def test_loops_differ_at_the_start_and_past_the_table_they_do_not() -> None:
    lora, x = LoRAAdapter(8, 4, 3), torch.randn(1, 2, 8)
    for t in range(2):
        assert not torch.allclose(lora(x, t), lora(x, t + 1), rtol=1e-3, atol=0)
    assert torch.equal(lora(x, 2), lora(x, 3))
    assert torch.equal(lora(x, 2), lora(x, 1000))


def test_onto_is_the_sum_and_takes_the_room_of_its_input_without_a_gradient() -> None:
    lora = LoRAAdapter(6, 3, 4).double()
    x, scale = torch.randn(2, 5, 6, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    before = x.clone()
    want = x + lora(x, scale=scale)
    torch.testing.assert_close(lora.onto(x, scale), want)
    assert torch.equal(x, before)
    with torch.no_grad():
        got = lora.onto(x, scale)
    torch.testing.assert_close(got, want)
    assert got.data_ptr() == x.data_ptr()
