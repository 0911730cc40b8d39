"""Training suites: who trains, and that two orders of depths hold the same work."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from open_mythos.bench.ours import Ours
from open_mythos.bench.suite import Setting
from open_mythos.bench.suites import training
from open_mythos.bench.suites.training import checkpoint, depth, depths, train


@pytest.mark.parametrize("deepest", [2, 5, 16])
def test_pinned_and_shuffled_steps_hold_the_same_loops(deepest: int) -> None:
    pinned, shuffled = depths(deepest)
    assert sorted(shuffled) == list(range(1, deepest + 1))
    assert len(pinned) == len(shuffled)
    assert sum(pinned) == sum(shuffled)
    assert max(pinned) - min(pinned) <= 1


def test_this_library_and_its_peer_train(setting: Setting) -> None:
    rows = [found for case in train(setting) for found in case.run()]
    names = [row.who for row in rows]
    assert names == [Ours.name] + ["open-mythos 0.5.0"] * (setting.peer is not None)
    for row in rows:
        assert row.figures["tokens_per_second"].value > 0
        assert row.shape["batch"] == setting.size.batch


def test_a_checkpointed_step_says_so(setting: Setting) -> None:
    (case,) = checkpoint(setting)
    (row,) = case.run()
    assert row.shape["checkpoint"] is True


def test_random_depth_is_compared_with_pinned(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "DEEPEST", 3)
    (case,) = depth(setting)
    rows = {row.case: row for row in case.run()}
    assert set(rows) == {"pinned", "random", "random against pinned"}
    pinned, drawn = (rows[name].figures["mean_step"].value for name in ("pinned", "random"))
    assert rows["random against pinned"].figures["slower"].value == pytest.approx(
        drawn / pinned - 1
    )
    assert sorted(line["loops"] for line in rows["random"].detail) == [1, 2, 3]


def test_the_batch_is_halved_until_it_fits(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Ours.train

    def small(self: Ours, batch: int, seq_len: int) -> Any:
        if batch > 1:
            raise torch.OutOfMemoryError
        return real(self, batch, seq_len)

    monkeypatch.setattr(Ours, "train", small)
    (row,) = train(setting)[0].run()
    assert row.shape["batch"] == 1


def test_the_largest_batch_is_looked_for_without_the_compiler(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, bool]] = []
    real = Ours.train

    def watched(self: Ours, batch: int, seq_len: int) -> Any:
        seen.append((batch, self.engine.compile))
        if batch > 1:
            raise torch.OutOfMemoryError
        self.engine = replace(self.engine, compile=False)
        return real(self, batch, seq_len)

    monkeypatch.setattr(Ours, "train", watched)
    setting = replace(setting, compile=True, size=replace(setting.size, largest=True))
    (row,) = train(setting)[0].run()
    assert seen == [(2, False), (1, False), (1, True)]
    assert "1 rows" in row.note
