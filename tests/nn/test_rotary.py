"""Rotary positions: the formula, the group law, and what is refused."""

import cmath
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import InputError, ShapeError
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.rotary import Rotary, apply_rope, precompute_rope_freqs, rotary


@given(
    pairs=st.integers(1, 6),
    max_len=st.integers(1, 20),
    theta=st.sampled_from([2.0, 10000.0, 500000.0]),
)
def test_table_is_the_formula(pairs: int, max_len: int, theta: float) -> None:
    table = precompute_rope_freqs(2 * pairs, max_len, theta)
    assert table.dtype == torch.complex64
    assert table.shape == (max_len, pairs)
    for p in range(max_len):
        for i in range(pairs):
            want = cmath.exp(1j * p * theta ** (-2 * i / (2 * pairs)))
            assert abs(table[p, i].item() - want) < 1e-6


@pytest.mark.parametrize("position", [999_983, 10_000_019])
def test_far_positions_keep_their_phase(position: int) -> None:
    tables = rotary(torch.tensor([position]), 4, 10000.0)
    for i in range(2):
        want = cmath.exp(1j * position * 10000.0 ** (-i / 2))
        assert tables.cos[0, i].item() == pytest.approx(want.real, abs=1e-6)
        assert tables.sin[0, i].item() == pytest.approx(want.imag, abs=1e-6)


@given(position=st.integers(0, 100_000), pairs=st.integers(1, 4))
def test_turning_forth_and_back_is_identity(position: int, pairs: int) -> None:
    x = torch.randn(2, 1, 3, 2 * pairs, dtype=torch.float64)
    forth = rotary(torch.tensor([position]), 2 * pairs, 10000.0)
    back = rotary(torch.tensor([-position]), 2 * pairs, 10000.0)
    # The tables are float32: each factor is right to 6e-8.
    torch.testing.assert_close(back.turn(forth.turn(x)), x, rtol=1e-6, atol=1e-6)


@given(p=st.integers(0, 5000), q=st.integers(0, 5000), shift=st.integers(0, 5000))
def test_scores_depend_on_the_difference_of_positions(p: int, q: int, shift: int) -> None:
    a, b = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)

    def score(i: int, j: int) -> float:
        left = rotary(torch.tensor([i]), 8, 10000.0).turn(a)
        right = rotary(torch.tensor([j]), 8, 10000.0).turn(b)
        return float((left * right).sum())

    assert score(p, q) == pytest.approx(score(p + shift, q + shift), abs=5e-6)


def test_rows_may_have_positions_of_their_own() -> None:
    x = torch.randn(2, 3, 1, 4)
    where = torch.tensor([[0, 1, 2], [4, 5, 6]])
    got = rotary(where, 4, 100.0).turn(x)
    for row in range(2):
        alone = rotary(where[row], 4, 100.0).turn(x[row : row + 1])
        torch.testing.assert_close(got[row : row + 1], alone)


def test_apply_rope_uses_the_first_rows_of_a_longer_table() -> None:
    x = torch.randn(2, 5, 3, 8)
    exact, longer = precompute_rope_freqs(8, 5), precompute_rope_freqs(8, 50)
    assert torch.equal(apply_rope(x, exact), apply_rope(x, longer))
    want = torch.view_as_real(
        torch.view_as_complex(x.reshape(2, 5, 3, 4, 2)) * exact[None, :, None, :]
    ).flatten(-2)
    torch.testing.assert_close(apply_rope(x, longer), want)


@pytest.mark.parametrize(("rows", "width"), [(4, 8), (1, 8), (5, 6), (5, 10)])
def test_apply_rope_refuses_a_table_that_does_not_fit(rows: int, width: int) -> None:
    with pytest.raises(ShapeError) as caught:
        apply_rope(torch.randn(2, 5, 3, 8), precompute_rope_freqs(width, rows))
    assert isinstance(caught.value, RuntimeError)


@pytest.mark.parametrize(("dim", "rows"), [(7, 4), (0, 4), (-2, 4), (8, 0)])
def test_impossible_tables_are_refused(dim: int, rows: int) -> None:
    with pytest.raises(InputError):
        precompute_rope_freqs(dim, rows)


def test_turn_keeps_norms() -> None:
    x = torch.randn(2, 6, 3, 8)
    turned = rotary(torch.arange(6), 8, 10000.0).turn(x)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert isinstance(rotary(torch.arange(6), 8, 10000.0), Rotary)


@pytest.mark.parametrize("attn_type", ["gqa", "mla"])
def test_tables_of_a_model_survive_a_cast_and_are_not_stored(
    attn_type: str, tiny_config: Callable[..., MythosConfig]
) -> None:
    cfg = tiny_config(attn_type=attn_type)
    model = OpenMythos(cfg)
    before = (model.freqs_cis.clone(), model.freqs_cis_mla.clone())
    model.to(torch.bfloat16)
    assert torch.equal(model.freqs_cis, before[0])
    assert torch.equal(model.freqs_cis_mla, before[1])
    assert model.freqs_cis.dtype == torch.complex64
    assert model.freqs_cis.shape == (cfg.max_seq_len, cfg.head_dim // 2)
    assert model.freqs_cis_mla.shape == (cfg.max_seq_len, cfg.qk_rope_head_dim // 2)
    assert not [name for name in model.state_dict() if "freq" in name]
