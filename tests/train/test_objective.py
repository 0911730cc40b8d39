import pytest
import torch
from torch import Tensor

from open_mythos.data.batch import IGNORE
from open_mythos.errors import InputError
from open_mythos.model.output import ForwardOutput
from open_mythos.train.objective import objective
from open_mythos.train.recipe import ObjectiveConfig


HEAD = torch.eye(7, dtype=torch.float64)


def output(logits: Tensor, ponder: Tensor | None = None) -> ForwardOutput:
    return ForwardOutput(
        logits=logits[:, :0],
        features=logits,  # with the identity as head they are the logits
        n_loops=1,
        halting=None,
        halting_weights=None,
        loops_used=torch.ones(logits.shape[:2], dtype=torch.int64),
        ponder_cost=ponder,
        router_load=torch.ones(1, 2, dtype=torch.int64),
        state_rms=torch.ones(1),
    )


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(torch.seed() % 2**31)
    logits = torch.randn(3, 5, 7, generator=draw, dtype=torch.float64)
    targets = torch.randint(7, (3, 5), generator=draw)
    targets[0, 1:4] = targets[2, 4] = IGNORE
    return logits, targets


def by_hand(logits: Tensor, targets: Tensor) -> tuple[float, float, int, int]:
    """Cross entropy, mean squared log-partition, hits, count: one position at a time."""
    losses, squares, hits = [], [], 0
    for row, wanted in zip(logits.flatten(0, 1).tolist(), targets.flatten().tolist(), strict=True):
        if wanted == IGNORE:
            continue
        z = torch.tensor(row, dtype=torch.float64).logsumexp(0).item()
        losses.append(z - row[wanted])
        squares.append(z * z)
        hits += max(range(7), key=lambda i, row=row: row[i]) == wanted
    return sum(losses) / len(losses), sum(squares) / len(squares), hits, len(losses)


def test_terms_are_means_over_scored_positions(pair: tuple[Tensor, Tensor]) -> None:
    cross, square, hits, count = by_hand(*pair)
    terms = objective(output(pair[0]), pair[1], HEAD, ObjectiveConfig(z_loss=0.5))
    assert float(terms.parts["cross_entropy"]) == pytest.approx(cross, rel=1e-5)
    assert float(terms.parts["z_loss"]) == pytest.approx(0.5 * square, rel=1e-5)
    assert (int(terms.correct), terms.n_targets) == (hits, count)


def test_the_total_is_the_sum_of_named_parts(pair: tuple[Tensor, Tensor]) -> None:
    config = ObjectiveConfig(z_loss=0.1, ponder=0.01)
    terms = objective(output(pair[0], torch.tensor(3.5)), pair[1], HEAD, config)
    assert set(terms.parts) == {"cross_entropy", "z_loss", "ponder"}
    assert float(terms.parts["ponder"]) == pytest.approx(0.035)
    assert float(terms.total) == pytest.approx(sum(float(p) for p in terms.parts.values()))


def test_a_term_of_weight_zero_is_not_there(pair: tuple[Tensor, Tensor]) -> None:
    assert list(objective(output(pair[0]), pair[1], HEAD, ObjectiveConfig()).parts) == [
        "cross_entropy"
    ]


def test_ignored_positions_get_no_gradient_and_the_others_do(pair: tuple[Tensor, Tensor]) -> None:
    logits, targets = pair[0].requires_grad_(), pair[1]
    objective(output(logits), targets, HEAD, ObjectiveConfig(z_loss=0.1)).total.backward()
    assert logits.grad is not None
    moved = logits.grad.abs().sum(-1) > 0
    assert torch.equal(moved, targets != IGNORE)


def test_the_ponder_cost_is_differentiated(pair: tuple[Tensor, Tensor]) -> None:
    ponder = torch.tensor(2.0, requires_grad=True)
    objective(output(pair[0], ponder), pair[1], HEAD, ObjectiveConfig(ponder=0.25)).total.backward()
    assert ponder.grad is not None
    assert float(ponder.grad) == 0.25


def test_half_precision_logits_are_summed_in_float32() -> None:
    features, head = torch.zeros(1, 1, 8).bfloat16(), torch.randn(4096, 8).bfloat16()
    targets = torch.zeros(1, 1, dtype=torch.int64)
    terms = objective(output(features), targets, head, ObjectiveConfig())
    assert terms.total.dtype == torch.float32
    assert float(terms.total) == pytest.approx(8.317766, abs=1e-5)


def test_without_targets_the_loss_is_zero_and_without_gradient(pair: tuple[Tensor, Tensor]) -> None:
    logits = pair[0].requires_grad_()
    terms = objective(output(logits), torch.full((3, 5), IGNORE), HEAD, ObjectiveConfig())
    terms.total.backward()
    assert float(terms.total.detach()) == int(terms.n_targets) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_ponder_cost_that_is_not_there_is_refused(pair: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match="no ponder cost"):
        objective(output(pair[0]), pair[1], HEAD, ObjectiveConfig(ponder=0.1))
