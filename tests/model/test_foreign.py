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
