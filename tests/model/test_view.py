"""Views: what a call's layers are told; the laws are in tests/laws/test_documents.py."""

from collections.abc import Callable

import torch
from hypothesis import given, strategies as st

from open_mythos.config.mythos import MythosConfig
from open_mythos.model.view import look
from open_mythos.nn.rotary import rotary


Config = Callable[..., MythosConfig]


def test_without_mask_and_documents_there_is_nothing_to_hide(tiny_config: Config) -> None:
    view = look(torch.zeros(2, 5, dtype=torch.int64), 3, None, tiny_config())
    assert view.valid is view.real is view.context.mask is None
    assert view.context.causal
    want = rotary(torch.arange(3, 8), tiny_config().rope_dim, tiny_config().rope_theta)
    assert torch.equal(view.context.rotary.cos, want.cos)


@given(data=st.data())
def test_documents_and_padding_position_by_position(
    tiny_config: Config, data: st.DataObject
) -> None:
    cfg = tiny_config()
    length = data.draw(st.integers(1, 8))
    row = data.draw(st.lists(st.integers(0, 2), min_size=length, max_size=length))
    real = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
    real = real if any(real) else [True] * length
    ids = torch.zeros(1, length, dtype=torch.int64)
    view = look(ids, 0, None, cfg, torch.tensor([real]), None, torch.tensor([row]))
    assert view.context.mask is not None
    assert view.real is not None
    assert view.real.tolist() == [real]
    counts: dict[int, int] = {}
    where = []
    for i in range(length):
        counts[row[i]] = counts.get(row[i], 0) + real[i]
        where.append(max(counts[row[i]] - 1, 0))
        for j in range(length):
            want = row[i] == row[j] and (real[j] or i == j)
            assert bool(view.context.mask[0, 0, i, j]) == want
    tables = rotary(torch.tensor([where]), cfg.rope_dim, cfg.rope_theta)
    assert torch.equal(view.context.rotary.sin, tables.sin)
