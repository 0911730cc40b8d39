import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from open_mythos.data.batch import IGNORE
from open_mythos.errors import InputError
from open_mythos.model.mythos import OpenMythos
from open_mythos.model.output import ForwardOutput
from open_mythos.ops.head_loss import head_loss
from open_mythos.train.objective import depth_prior, log_prior, objective, sample_reads
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


# -- the loss of earlier loops -------------------------------------------------------------------


@pytest.fixture
def network(tiny_config: Any, randomised: Any) -> Any:
    """`network(**changes)`: a randomised float64 network in training mode."""

    def make(**changes: Any) -> OpenMythos:
        model: OpenMythos = randomised(OpenMythos(tiny_config(**changes)).double().train())
        return model

    return make


def gradients(model: OpenMythos) -> Tensor:
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    model.zero_grad()
    return torch.cat([grad.flatten() for grad in found])


@pytest.mark.parametrize("loops", [5, [5, 1, 3]], ids=["one depth", "per row"])
def test_the_loop_loss_is_the_sum_of_passes_that_end_there(
    network: Any, readout: str, loops: Any
) -> None:
    model, config = network(readout=readout), ObjectiveConfig(loop_loss=0.6)
    ids, targets = torch.randint(37, (2, 3, 5))
    targets[1, 2:] = IGNORE
    out = model(ids, loops, read_loops=(2, 4), logits_to_keep=0, return_output=True)
    terms = objective(out, targets, model.head.weight, config)
    terms.total.backward()
    joint = gradients(model)
    total = 0.0
    for weight, end in ((1.0, 5), (0.3, 2), (0.3, 4)):
        cut = min(end, loops) if isinstance(loops, int) else [min(end, row) for row in loops]
        alone = model(ids, cut, return_output=True)
        cost = weight * objective(alone, targets, model.head.weight, ObjectiveConfig()).total
        cost.backward()
        total += float(cost.detach())
    assert float(terms.total.detach()) == pytest.approx(total, rel=1e-9)
    torch.testing.assert_close(joint, gradients(model), rtol=1e-8, atol=1e-11)
    assert list(terms.parts) == ["cross_entropy", "loop_loss"]


def test_a_loop_loss_without_reads_is_refused_but_after_one_loop_zero(network: Any) -> None:
    model, config = network(), ObjectiveConfig(loop_loss=1.0)
    ids, targets = torch.randint(37, (2, 2, 5))
    with pytest.raises(InputError, match=r"read_loops"):
        objective(model(ids, 2, return_output=True), targets, model.head.weight, config)
    terms = objective(model(ids, 1, return_output=True), targets, model.head.weight, config)
    assert float(terms.parts["loop_loss"]) == 0.0


def test_another_head_loss_serves_every_term(network: Any) -> None:
    """Where ranks share the head, its loss is theirs, for all features alike."""
    model, seen = network(), []

    def watch(features: Tensor, *args: Any, **how: Any) -> Any:
        seen.append(features)
        return head_loss(features, *args, **how)

    ids, targets = torch.randint(37, (2, 2, 5))
    out = model(ids, 4, read_loops=(1, 3), return_output=True)
    config = ObjectiveConfig(loop_loss=1.0, z_loss=0.1)
    terms = objective(out, targets, model.head.weight, config, cross_entropy=watch)
    assert len(seen) == 3
    plain = objective(out, targets, model.head.weight, config)
    assert torch.equal(terms.total, plain.total)


@given(
    n_loops=st.integers(1, 40),
    reads=st.integers(1, 6),
    backprop=st.none() | st.integers(2, 12),
    step=st.integers(0, 999),
)
def test_reads_are_spread_over_the_loops_that_learn(
    n_loops: int, reads: int, backprop: int | None, step: int
) -> None:
    config = ObjectiveConfig(loop_loss=0.1, loop_reads=reads)
    found = sample_reads(config, n_loops, backprop, 3, step)
    first = 1 if backprop is None else max(n_loops - backprop + 1, 1)
    assert len(found) == min(reads, n_loops - first)
    assert list(found) == sorted(set(found))
    assert all(first <= loop < n_loops for loop in found)
    for i, loop in enumerate(found):  # one in each stretch
        room = n_loops - first
        assert first + room * i // len(found) <= loop < first + room * (i + 1) // len(found)
    assert found == sample_reads(config, n_loops, backprop, 3, step)


def test_every_loop_is_read_some_time_and_none_without_the_term() -> None:
    config = ObjectiveConfig(loop_loss=0.1, loop_reads=2)
    read = {loop for step in range(200) for loop in sample_reads(config, 9, None, 0, step)}
    assert read == set(range(1, 9))
    assert sample_reads(replace(config, loop_loss=0.0), 9, None, 0, 5) == ()


# -- the prior -----------------------------------------------------------------------------------


@given(st.sampled_from(["geometric", "poisson"]), st.floats(1.01, 40), st.integers(1, 64))
def test_a_prior_is_its_distribution_cut_and_renormalised(
    kind: str, mean: float, n_loops: int
) -> None:
    found = log_prior(kind, mean, n_loops)
    assert len(found) == n_loops
    assert math.fsum(math.exp(log) for log in found) == pytest.approx(1.0, rel=1e-9)
    for k in range(1, n_loops):
        ratio = 1 - 1 / mean if kind == "geometric" else mean / (k + 1)
        assert found[k] - found[k - 1] == pytest.approx(math.log(ratio), rel=1e-9, abs=1e-9)


def weighted(weights: Tensor, row_loops: tuple[int, ...] | None = None) -> ForwardOutput:
    base = output(torch.zeros(*weights.shape[1:], 7, dtype=torch.float64))
    return replace(base, halting_weights=weights, row_loops=row_loops, n_loops=len(weights))


def test_the_divergence_is_that_of_every_scored_position_by_hand() -> None:
    row_loops, config = (4, 2), ObjectiveConfig(depth_prior=1.0, prior="poisson", prior_mean=2.5)
    weights = torch.rand(4, 2, 3, dtype=torch.float64)
    weights[1, 0, 0] = 0.0  # as behind a halt
    weights[2:, 1] = 0.0  # as behind the end of a row
    weights = weights / weights.sum(0)
    targets = torch.tensor([[1, IGNORE, 2], [IGNORE, 3, 3]])
    total = 0.0
    for b, s in ((0, 0), (0, 2), (1, 1), (1, 2)):
        logs = log_prior("poisson", 2.5, row_loops[b])
        for w, log in zip(weights[: row_loops[b], b, s].tolist(), logs, strict=True):
            total += w * (math.log(w) - log) / 4 if w else 0.0
    found = depth_prior(weighted(weights, row_loops), targets, config)
    assert float(found) == pytest.approx(total, rel=1e-9)


def test_weights_that_are_the_prior_cost_nothing() -> None:
    config = ObjectiveConfig(depth_prior=1.0, prior_mean=3.0)
    logs = torch.tensor(log_prior("geometric", 3.0, 6), dtype=torch.float64)
    weights = logs.exp().view(6, 1, 1).expand(6, 2, 3)
    assert float(depth_prior(weighted(weights), torch.ones(2, 3).long(), config)) < 1e-12


@pytest.mark.parametrize("loops", [6, [6, 2, 4]], ids=["one depth", "per row"])
def test_the_prior_teaches_halting(network: Any, loops: Any) -> None:
    """A few steps down the term's own slope bring the weights nearer to the prior."""
    model = network(act_threshold=0.99)
    model.recurrent.act.halt.bias.data.fill_(-3.0)
    config = ObjectiveConfig(depth_prior=1.0, prior_mean=2.0)
    ids = torch.randint(37, (3, 5))
    costs = []
    optimizer = torch.optim.SGD(model.recurrent.act.parameters(), lr=0.5)
    for _ in range(12):
        out = model(ids, loops, return_output=True)
        cost = depth_prior(out, ids, config)
        optimizer.zero_grad()
        cost.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        optimizer.step()
        costs.append(float(cost.detach()))
    assert costs[-1] < 0.5 * costs[0]


def test_a_prior_over_weights_that_are_not_there_is_refused(pair: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match="no halting weights"):
        objective(output(pair[0]), pair[1], HEAD, ObjectiveConfig(depth_prior=0.1))
