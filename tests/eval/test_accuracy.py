import torch
from torch import Tensor, nn

from open_mythos.data.tasks.maze import MazePath
from open_mythos.data.tasks.pointer import PointerChase
from open_mythos.data.tasks.prefix import PrefixParity
from open_mythos.eval.accuracy import accuracy, task_batches, those_with_room


class Chaser(nn.Module):
    """Solves pointer chasing exactly, one hop a loop: what a perfect looped model would do."""

    def __init__(self, states: int, queries: int) -> None:
        super().__init__()
        self.states, self.queries = states, queries
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, ids: Tensor, n_loops: int | None = None) -> Tensor:
        pairs, x = ids[:, : -self.queries], ids[:, -self.queries :]
        f = torch.zeros(len(ids), self.states, dtype=torch.int64)
        f.scatter_(1, pairs[:, ::2], pairs[:, 1::2])
        for _ in range(n_loops or 1):
            x = f.gather(1, x)
        answers = torch.cat([torch.zeros_like(pairs), x], 1)
        return self.scale * nn.functional.one_hot(answers, self.states)


def test_a_perfect_chaser_is_right_when_loops_equal_hops() -> None:
    task = PointerChase(states=9, queries=4, batch_size=8, max_hops=3, maps="permutation")
    model = Chaser(9, 4)
    for hops in (1, 3, 12):
        found = accuracy(model, task, hops, hops, batches=2)
        assert (found.accuracy, found.n_targets, found.n_loops) == (1.0, 2 * 8 * 4, hops)
        assert accuracy(model, task, hops, hops + 1, batches=2).accuracy < 0.7


def test_held_out_batches_are_the_same_for_everyone_and_differ_among_themselves() -> None:
    for task in (PrefixParity(length=9, batch_size=4), PrefixParity(9, 4, seed=5)):
        one, two = list(task_batches(task, 12, 3)), list(task_batches(task, 12, 3))
        assert all(torch.equal(a.ids, b.ids) for a, b in zip(one, two, strict=True))
        assert not torch.equal(one[0].ids, one[1].ids)
        assert one[0].ids.shape == (4, 12)
    first = next(task_batches(PrefixParity(9, 4, seed=0), 12))
    assert torch.equal(first.ids, one[0].ids)


def test_only_difficulties_that_exist_and_fit_are_kept() -> None:
    assert those_with_room(PrefixParity(9, 4), [20, 3, 3, 11], room=11) == [3, 11]
    maze = MazePath(side=3, queries=2, max_level=4)
    assert those_with_room(maze, [8, 6, 1], room=11) == [1, 6]
    assert those_with_room(maze, [8, 6, 1], room=10) == []
