"""Who may look where."""

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.errors import ShapeError
from open_mythos.nn.attention.context import (
    AttentionContext,
    document_mask,
    legacy_context,
    padding_mask,
)
from open_mythos.nn.rotary import precompute_rope_freqs, rotary


@given(keys=st.integers(1, 6), data=st.data())
def test_padding_hides_padded_keys_from_everybody_but_themselves(
    keys: int, data: st.DataObject
) -> None:
    length = data.draw(st.integers(1, keys))
    valid = torch.tensor(
        [data.draw(st.lists(st.booleans(), min_size=keys, max_size=keys)) for _ in range(2)]
    )
    mask = padding_mask(valid, length)
    assert mask.shape == (2, 1, length, keys)
    for b in range(2):
        for i in range(length):
            for j in range(keys):
                want = bool(valid[b, j]) or j == keys - length + i
                assert bool(mask[b, 0, i, j]) == want


@pytest.mark.parametrize("per_row", [False, True])
def test_the_last_positions_keep_their_angles_and_what_they_see(per_row: bool) -> None:
    where = torch.tensor([[5, 6, 7], [0, 1, 2]]) if per_row else torch.arange(3)
    mask = torch.rand(2, 1, 3, 4) < 0.5
    context = AttentionContext(rotary(where, 4, 100.0), causal=False, mask=mask)
    for count in (1, 2, 3):
        last = context.last(count)
        assert not last.causal
        assert last.mask is not None
        assert torch.equal(last.mask, mask[:, :, 3 - count :])
        want = rotary(where[..., 3 - count :], 4, 100.0)
        assert torch.equal(last.rotary.cos, want.cos)
        assert torch.equal(last.rotary.sin, want.sin)
    assert AttentionContext(context.rotary).last(1).mask is None


def test_a_hand_made_context_is_not_causal_by_itself() -> None:
    context = legacy_context(precompute_rope_freqs(4, 9), None, 3, past=0)
    assert not context.causal
    assert context.mask is None
    assert context.rotary.cos.shape == (3, 2)


@pytest.mark.parametrize("additive", [True, False])
def test_a_square_mask_leaves_cached_positions_visible(additive: bool) -> None:
    mask = torch.randn(1, 1, 3, 3) if additive else torch.rand(1, 1, 3, 3) < 0.5
    context = legacy_context(precompute_rope_freqs(4, 9), mask, 3, past=2)
    assert context.mask is not None
    assert context.mask.shape == (1, 1, 3, 5)
    assert torch.equal(context.mask[..., 2:], mask)
    assert context.mask[..., :2].eq(0.0 if additive else True).all()


def test_a_full_mask_is_taken_as_it_is() -> None:
    mask = torch.randn(1, 1, 3, 5)
    context = legacy_context(precompute_rope_freqs(4, 9), mask, 3, past=2)
    assert context.mask is mask


@pytest.mark.parametrize(("shape", "past"), [((3, 4), 2), ((2, 5), 2), ((3, 4), 0), ((4, 3), 0)])
def test_a_mask_that_does_not_fit_is_refused(shape: tuple[int, int], past: int) -> None:
    with pytest.raises(ShapeError, match="mask"):
        legacy_context(precompute_rope_freqs(4, 9), torch.zeros(shape), 3, past)


def test_a_short_table_is_refused() -> None:
    with pytest.raises(ShapeError, match="rotary"):
        legacy_context(precompute_rope_freqs(4, 2), None, 3, past=0)


def test_a_document_sees_itself_alone() -> None:
    documents = torch.tensor([[4, 4, 0, 4], [1, 2, 3, 3]])
    mask = document_mask(documents)
    assert mask.shape == (2, 1, 4, 4)
    for b, i, j in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(4)).tolist():
        assert bool(mask[b, 0, i, j]) == bool(documents[b, i] == documents[b, j])


def test_a_part_has_its_rows_and_what_all_rows_share() -> None:
    where, mask = torch.randint(9, (3, 5)), torch.rand(3, 1, 5, 5) < 0.5
    own = AttentionContext(rotary(where, 4, 100.0), mask=mask)
    for rows in (slice(1, 3), torch.tensor([2, 0])):
        part = own.part(rows)
        assert torch.equal(part.mask, mask[rows])
        assert torch.equal(part.rotary.cos, own.rotary.cos[rows])
        assert torch.equal(part.rotary.sin, own.rotary.sin[rows])
    shared = AttentionContext(rotary(where[0], 4, 100.0), mask=mask[:1])
    part = shared.part(slice(1, 3))
    assert part.mask is shared.mask
    assert part.rotary is shared.rotary
