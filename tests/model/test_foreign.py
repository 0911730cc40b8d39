"""A foreign model is a model like ours: stored, cached and generating."""

from pathlib import Path

import pytest
import torch

from open_mythos.model.foreign import load_foreign
from open_mythos.model.mythos import OpenMythos
from tests.checkpoint.foreign.published import FAMILIES, write


@pytest.mark.parametrize("family", sorted(FAMILIES))
@torch.no_grad()
def test_it_survives_storage_and_answers_the_same_cached(family: str, tmp_path: Path) -> None:
    values, draw, _ = FAMILIES[family]
    model = load_foreign(write(tmp_path / "theirs", values, draw(values)))
    assert not model.training
    model.save_pretrained(tmp_path / "ours")
    again = OpenMythos.from_pretrained(tmp_path / "ours")
    ids = torch.randint(0, 30, (2, 8))
    want = model(ids, 3)
    assert torch.equal(again(ids, 3), want)
    cache = again.new_cache(2, 12)
    parts = [again(ids[:, :5], 3, cache), again(ids[:, 5:], kv_cache=cache)]
    torch.testing.assert_close(torch.cat(parts, 1), want, rtol=1e-6, atol=1e-6)
    longer = again.generate(ids, 4, n_loops=3, temperature=0)
    for at in range(8, 12):
        assert torch.equal(longer[:, at], again(longer[:, :at], 3)[:, -1].argmax(-1))


@pytest.mark.parametrize("family", sorted(FAMILIES))
@torch.no_grad()
def test_sixteen_bits_stay_sixteen_and_say_nearly_the_same(family: str, tmp_path: Path) -> None:
    values, draw, equations = FAMILIES[family]
    stored = {name: (0.5 * w).bfloat16() for name, w in draw(values).items()}
    model = load_foreign(write(tmp_path, values, stored))
    ids = torch.randint(0, 30, (6,))
    want = equations({n: w.double() for n, w in stored.items()}, values, ids, 2)
    logits = model(ids[None], 2)[0]
    assert logits.dtype == torch.bfloat16
    assert model.head.weight.dtype == torch.bfloat16
    # Only a head that is a scaled table too is rounded on the way.
    rounded = 2**-7 * want.abs().max().item() if family == "huginn" else 1e-4
    torch.testing.assert_close(model.float()(ids[None], 2)[0].double(), want, rtol=0, atol=rounded)
    torch.testing.assert_close(logits.double(), want, rtol=0, atol=0.2 * want.abs().max().item())
