import torch

from open_mythos.data.tasks import PointerChase
from open_mythos.demo.measure import measure_task
from open_mythos.demo.plan import TASK, Plan
from open_mythos.model.mythos import OpenMythos


class Oracle(OpenMythos):
    """Answers k hops only when given k loops, by following the map it is shown."""

    def __init__(self, plan: Plan, task: PointerChase) -> None:
        super().__init__(plan.recipes[TASK].model)
        self.task = task

    def _pass(self, ids, n_loops, context, cache, valid):  # type: ignore[no-untyped-def]
        logits, trace = super()._pass(ids, n_loops, context, cache, valid)
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
        return torch.cat((logits[:, :shown], answer), dim=1), trace


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
