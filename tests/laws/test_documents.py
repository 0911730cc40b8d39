"""Documents packed into a row: each as if it were the only one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import InputError
from open_mythos.model.mythos import OpenMythos


Build = Callable[..., OpenMythos]
VOCAB = 37


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def gradients(model: OpenMythos) -> Tensor:
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    model.zero_grad()
    return torch.cat([grad.flatten() for grad in found])


def packed(*lengths: int) -> Tensor:
    """(S,) of documents of these lengths, numbered in no order."""
    names = torch.randperm(100)[: len(lengths)]
    return names.repeat_interleave(torch.tensor(lengths))


@pytest.mark.parametrize("per_row", [False, True], ids=["one depth", "per row"])
def test_each_document_is_as_if_alone(
    any_config: MythosConfig, build: Build, per_row: bool
) -> None:
    """Forward and backward, several loops, whatever the attention, readout and end of a halt."""
    model = build(any_config).train()
    documents = torch.stack([packed(3, 1, 5), packed(9), packed(2, 2, 5)])
    ids = torch.randint(VOCAB, documents.shape)
    depths = [4, 2, 3] if per_row else [3, 3, 3]
    by = torch.randn(*ids.shape, VOCAB, dtype=torch.float64)
    out = model(ids, depths if per_row else 3, documents=documents)
    (out * by).sum().backward()
    joint = gradients(model)
    for row, depth in enumerate(depths):
        for document in documents[row].unique():
            here = documents[row] == document
            alone = model(ids[row : row + 1, here], depth)
            close(out[row, here], alone[0])
            (alone[0] * by[row, here]).sum().backward()
    assert joint.norm() > 0
    close(joint, gradients(model))


@settings(max_examples=15)
@given(data=st.data())
@torch.no_grad()
def test_documents_may_lie_anywhere_between_padding(build: Build, data: st.DataObject) -> None:
    """Neither order nor neighbourhood nor padding counts: only whose token it is."""
    model = build(attn_type=data.draw(st.sampled_from(["gqa", "mla"])))
    length = data.draw(st.integers(1, 12))
    row = data.draw(st.lists(st.integers(0, 3), min_size=length, max_size=length))
    real = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
    documents, mask = torch.tensor([row]), torch.tensor([real]) | ~torch.tensor([real]).any()
    ids = torch.randint(VOCAB, (1, length))
    out = model(ids, 3, documents=documents, attention_mask=mask)
    for document in set(row):
        here = (documents == document) & mask
        if here.any():
            close(out[here], model(ids[here].unsqueeze(0), 3)[0])


@torch.no_grad()
def test_given_positions_go_first(build: Build) -> None:
    model, documents = build(), packed(4, 5).unsqueeze(0)
    ids = torch.randint(VOCAB, (1, 9))
    want = model(ids, 3, documents=documents)
    restarted = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4])
    close(model(ids, 3, documents=documents, position_ids=restarted), want)
    spread = model(ids, 3, documents=documents, position_ids=restarted * 3)
    assert (spread - want).abs().max() > 1e-3


@torch.no_grad()
def test_one_document_is_a_plain_row(build: Build, attn_type: str) -> None:
    model, ids = build(attn_type=attn_type), torch.randint(VOCAB, (2, 7))
    close(model(ids, 3, documents=torch.zeros_like(ids)), model(ids, 3))


def test_documents_that_do_not_fit(build: Build) -> None:
    model, ids = build(), torch.zeros(2, 6, dtype=torch.int64)

    def refuse(words: str, documents: Any, **how: Any) -> None:
        with pytest.raises(InputError, match=words):
            model(ids, 2, documents=documents, **how)

    refuse(r"documents must be a tensor, not list", [[0] * 6] * 2)
    refuse(r"shape \(2, 5\); they must be .* \(2, 6\)", ids[:, :5])
    refuse(r"documents are torch\.float32", ids.float())
    refuse(r"documents were given with a cache.*leave the cache out", ids, kv_cache={})
