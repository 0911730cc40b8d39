"""What benchmarks/exits.py works out by hand, against scipy and against counting."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from open_mythos.data.batch import IGNORE
from open_mythos.data.tasks.mixed import MixedTasks
from open_mythos.data.tasks.prefix import PrefixSum
from open_mythos.errors import InputError


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("exits")


def test_ranks_correlate_as_scipy_says(exits: ModuleType) -> None:
    stats = pytest.importorskip("scipy.stats")
    for most in (3, 40):  # many equal values, and few
        x, y = (torch.randint(most, (50,)).double() for _ in range(2))
        want = stats.spearmanr(x.numpy(), y.numpy()).statistic
        assert exits.spearman(x, y) == pytest.approx(want, abs=1e-12)
        assert exits.spearman(x, x.exp()) == pytest.approx(1.0)
    assert exits.spearman(torch.ones(4).double(), torch.arange(4).double()) == 0.0


def test_the_worst_difficulty_counts(exits: ModuleType) -> None:
    level = torch.tensor([1, 1, 1, 8, 8, 8])
    full = torch.tensor([True, True, False, True, True, True])
    left = torch.tensor([True, False, True, True, False, False])  # one lost and won; two lost
    assert exits.most_lost(left, full, level) == 2


@pytest.mark.parametrize("level", [1, 5, 8])
def test_rows_have_about_as_many_answers_at_every_difficulty(exits: ModuleType, level: int) -> None:
    task = PrefixSum(modulus=5, max_level=8, room=36, batch_size=7)
    batch = exits.rows_of(task, level, 50, seed=1)
    each = 36 // (level + 1)
    assert int((batch.targets != IGNORE).sum()) == each * len(batch.ids)
    assert 50 <= each * len(batch.ids) < 50 + each
    mixed = exits.rows_of(MixedTasks(only="sums", extent="small"), 4, 50, seed=0)
    assert int((mixed.targets != IGNORE).sum()) >= 50


def test_results_are_added_to(exits: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "exits.json"
    exits.add(path, "text", {"model": "a"})
    exits.add(path, "tasks", {"words": 1, "sums": 2})
    exits.add(path, "tasks", {"sums": 3})
    found = exits.read_json(path)
    assert (found["text"], found["tasks"]) == ({"model": "a"}, {"words": 1, "sums": 3})


def test_tasks_whose_loops_say_how_hard_they_are_are_left_out(exits: ModuleType) -> None:
    free = [name for name, part in MixedTasks().parts.items() if part.free]
    assert sorted(free) == ["knowledge", "parity", "sums", "words"]
    with pytest.raises(InputError, match="the loops say how hard"):
        exits.free_task(MixedTasks(only="pointer"))
