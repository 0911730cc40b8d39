import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.batch import IGNORE, Batch
from open_mythos.errors import InputError
from open_mythos.eval.halting import LoopUse, loop_use
from open_mythos.model.mythos import OpenMythos
from open_mythos.model.output import ForwardOutput


CONFIG = MythosConfig(
    vocab_size=9,
    dim=16,
    n_heads=2,
    n_kv_heads=1,
    attn_type="gqa",
    max_seq_len=16,
    max_loop_iters=6,
    n_experts=3,
    n_experts_per_tok=2,
    expert_dim=8,
)


class Scripted(nn.Module):
    """A position halts after as many loops as its token says; the pass ends with the last."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor, n_loops: int, return_output: bool) -> ForwardOutput:
        ran = int(ids.max())
        assert return_output
        assert ran <= n_loops
        live = torch.stack([(ids >= t).sum() for t in range(1, ran + 1)])
        return ForwardOutput(
            features=torch.zeros(1, 1, 1),
            logits=torch.zeros(*ids.shape, 2),
            n_loops=ran,
            halting=None,
            halting_weights=None,
            loops_used=ids,
            ponder_cost=None,
            router_load=torch.stack([live, torch.zeros_like(live)], -1),
            state_rms=torch.arange(1.0, ran + 1),
        )


def test_shares_are_counted_over_scored_positions_of_all_batches() -> None:
    first = torch.tensor([[1, 1, 2, 3]])
    second = torch.tensor([[2, 2, 2, 1]])
    unscored = first.clone()
    unscored[0, 3] = IGNORE
    found = loop_use(Scripted(), [Batch(first, unscored), Batch(second, second)], 5)
    assert (found.n, found.n_loops) == (7, 5)
    assert found.halted_by == pytest.approx((3 / 7, 1, 1, 1, 1))
    assert found.mean_loops == pytest.approx((3 * 1 + 4 * 2) / 7)
    assert found.expert_load == ((1, 0), (1, 0), (1, 0), (0, 0), (0, 0))
    assert found.state_rms == (1, 2, 3, 0, 0)


@pytest.mark.parametrize("readout", ["act", "last"])
@pytest.mark.parametrize("training", [True, False])
def test_the_real_network_halts_by_its_own_account(readout: str, training: bool) -> None:
    torch.manual_seed(1)
    model = OpenMythos(replace(CONFIG, readout=readout, dropout=0.3)).train(training)
    batches = [Batch(ids, ids) for ids in torch.randint(9, (3, 2, 16))]
    found = loop_use(model, batches, 6)
    assert model.training is training
    again = loop_use(model, batches, 6)
    assert again == found
    assert list(found.halted_by) == sorted(found.halted_by)
    assert found.halted_by[-1] == 1.0
    # The mean is the area above the histogram.
    assert found.mean_loops == pytest.approx(1 + sum(1 - share for share in found.halted_by[:-1]))
    if readout == "last":
        assert found.mean_loops == 6
    for row in found.expert_load:
        assert sum(row) == pytest.approx(1.0) or sum(row) == 0.0
    with torch.no_grad():
        outputs = [model.eval()(b.ids, 6, return_output=True) for b in batches]
    used = torch.cat([o.loops_used.flatten() for o in outputs])
    assert found.mean_loops == pytest.approx(float(used.double().mean()))


def test_evaluating_is_not_counted_as_load_to_balance() -> None:
    model = OpenMythos(CONFIG)
    ids = torch.randint(9, (2, 16))
    loop_use(model, [Batch(ids, ids)], 2)
    assert int(model.update_router_bias().sum()) == 0


def test_the_record_survives_json() -> None:
    ids = torch.tensor([[1, 2]])
    found = loop_use(Scripted(), [Batch(ids, ids)], 3)
    assert LoopUse.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_nothing_to_count_is_refused() -> None:
    with pytest.raises(InputError, match="no position"):
        loop_use(Scripted(), [], 2)
