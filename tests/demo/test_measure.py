import torch

from open_mythos.data.tasks.pointer import PointerChase
from open_mythos.demo.measure import HaltingMap, halting_map, measure_task
from open_mythos.demo.plan import SEED_DESIGN, TASK, Plan
from open_mythos.model.mythos import OpenMythos


class Oracle(OpenMythos):
    """Answers k hops only when given k loops, by following the map it is shown."""

    def __init__(self, plan: Plan, task: PointerChase) -> None:
        super().__init__(plan.recipes[TASK].model)
        self.task = task

    def _pass(self, ids, n_loops, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.asked = ids, n_loops
        return super()._pass(ids, n_loops, *args, **kwargs)

    def _logits(self, features, keep=None):  # type: ignore[no-untyped-def]
        logits = super()._logits(features, keep)
        ids, n_loops = self.asked
        task, shown = self.task, self.task.seq_len - self.task.queries
        asked = ids[:, shown:] - task.state_offset
        if task.layout == "joint":
            keys, values = ids[:, :shown] // task.states, ids[:, :shown] % task.states
        else:
            keys, values = ids[:, 0:shown:2], ids[:, 1:shown:2]
        f = torch.zeros_like(keys).scatter(1, keys, values)
        for _ in range(n_loops):
            asked = f.gather(1, asked)
        answer = torch.zeros_like(logits[:, shown:])
        answer.scatter_(2, (asked + task.state_offset).unsqueeze(-1), 9.0)
        return torch.cat((logits[:, :shown], answer), dim=1)


def test_a_model_that_hops_once_a_loop_is_measured_as_one(tiny_plan: Plan) -> None:
    data = tiny_plan.recipes[TASK].data
    task = PointerChase(
        states=data.states, queries=data.queries, batch_size=8, max_hops=data.max_hops,
        layout=data.layout, maps=data.maps,
    )  # fmt: skip
    result = measure_task(Oracle(tiny_plan, task), task, tiny_plan)
    assert [share for _, share in result.deeper] == [1.0] * len(tiny_plan.hops)
    assert dict(result.stopped)[1] == 1.0
    beyond = dict(result.stopped)[max(tiny_plan.hops)]
    assert beyond < 0.6
    assert result.heat.at(2, 2) == 1.0
    assert result.heat.at(2, 1) < 0.6


def test_halting_is_shown_by_position_and_spent_in_full(tiny_plan: Plan) -> None:
    recipe = tiny_plan.recipes[SEED_DESIGN]
    task = PointerChase(states=11, queries=3, batch_size=2, layout="joint", maps="cycle")
    found = halting_map(OpenMythos(recipe.model), task, 2, 5)
    assert found is not None
    ids = task.evaluation_batch(2).ids[0].tolist()
    assert found.labels[0] == f"{ids[0] // 11}>{ids[0] % 11}"
    assert found.labels[-1] == f"{ids[-1] - 121}?"
    assert len(found.spent) == len(ids)
    for row in found.spent:
        assert sorted(row) == list(row)
        assert abs(row[-1] - 1.0) < 1e-6
    ours = OpenMythos(tiny_plan.recipes[TASK].model)
    assert halting_map(ours, task, 2, 5) is None


def test_queries_that_halted_are_counted() -> None:
    rows = ((0.1, 0.2, 1.0), (0.5, 1.0, 1.0), (0.3, 0.4, 1.0))
    assert HaltingMap(("a", "b", "c"), rows, queries=2).halted_queries == 0.5


def test_loops_that_nobody_needed_are_shown_as_spent(tiny_plan: Plan) -> None:
    model = OpenMythos(tiny_plan.recipes[SEED_DESIGN].model)
    torch.nn.init.constant_(model.recurrent.act.halt.bias, 9.0)  # everybody halts at once
    task = PointerChase(states=11, queries=3, batch_size=2, layout="joint", maps="cycle")
    found = halting_map(model, task, 2, 5)
    assert found is not None
    assert {len(row) for row in found.spent} == {5}
    assert found.halted_queries == 1.0
