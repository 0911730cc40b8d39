"""Thresholds fitted to a budget: by hand on made-up scores, and kept on fresh data."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.batch import Batch
from open_mythos.data.tasks.pointer import PointerChase as Task
from open_mythos.errors import InputError
from open_mythos.eval.calibration import (
    SURE,
    Judge,
    Trade,
    calibrate,
    exit_loops,
    loosest,
    row_error,
    thresholds,
    tightened,
    trade_curve,
)
from open_mythos.eval.exit_scores import Answers, ExitScores, answered
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.exits.registry import EXITS
from open_mythos.train.build import build_state
from open_mythos.train.networks import small
from open_mythos.train.recipe import (
    CurriculumConfig,
    DataConfig,
    DepthConfig,
    OptimConfig,
    Recipe,
)
from open_mythos.train.sources import build_sources
from open_mythos.train.step import train_step


def made_up(n: int = 4000, n_loops: int = 8, rows: int = 200) -> ExitScores:
    """Positions settle at a loop of their own: right from there on, and their score is small."""
    settles = torch.randint(1, n_loops + 1, (n,))
    loop = torch.arange(1, n_loops + 1).unsqueeze(-1)
    settled = loop >= settles
    noise = torch.rand(n_loops, n, dtype=torch.float64)
    small = torch.where(settled, 0.2 * noise, 0.15 + noise)
    answers = Answers(
        loss=torch.where(settled, 0.5, 2.0) + 0.1 * noise,
        hit=settled & (noise < 0.95),
        row=torch.arange(n) % rows,
        loops=torch.full((n,), n_loops),
    )
    scores = {name: small if not kind.above else 1 - small / 2 for name, kind in EXITS.items()}
    scores["fixed"] = scores["stability"] = loop.expand(n_loops, n).double()
    return ExitScores(scores, answers)


# -- counting ------------------------------------------------------------------------------------


def test_a_position_leaves_at_its_first_done_loop_or_the_last() -> None:
    scores = torch.rand(5, 50, dtype=torch.float64)
    for value in (0.0, 0.2, 2.0):
        found = exit_loops(EXITS["latent"](value), scores)
        for n in range(50):
            hits = [t + 1 for t in range(5) if scores[t, n] <= value]
            assert int(found[n]) == (hits[0] if hits else 5)


def test_the_error_of_a_mean_over_rows() -> None:
    """Independent positions have the textbook error; positions that are one in a row do not."""
    values = torch.randn(4000, dtype=torch.float64)
    alone = row_error(values, torch.arange(4000))
    assert alone == pytest.approx(float(values.std()) / math.sqrt(4000), rel=1e-9)
    twice = row_error(values.repeat_interleave(10), torch.arange(4000).repeat_interleave(10))
    assert twice == pytest.approx(alone, rel=1e-9)
    assert row_error(values, torch.zeros(4000)) == math.inf


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_a_trade_is_counted_by_hand(metric: Any) -> None:
    seen, judge = made_up(400, rows=400), Judge(metric, 0.01)
    full = Answers(
        seen.answers.loss[-1], seen.answers.hit[-1], seen.answers.row, seen.answers.loops
    )
    left = replace(full, loss=seen.answers.loss[2], hit=seen.answers.hit[2])
    trade = judge(0.3, left, full)
    if metric == "loss":
        base = sum(full.loss.tolist()) / 400
        worse = [(a - b) for a, b in zip(left.loss.tolist(), full.loss.tolist(), strict=True)]
        assert trade.score == pytest.approx(sum(left.loss.tolist()) / 400)
    else:
        base = sum(full.hit.tolist()) / 400
        worse = [b - a for a, b in zip(left.hit.tolist(), full.hit.tolist(), strict=True)]
    assert trade.cost == pytest.approx(sum(worse) / 400 / base)
    assert trade.bound > trade.cost
    assert trade.mean_loops == 8.0


def test_the_bound_is_exceeded_in_about_one_of_twenty_samples() -> None:
    """The cost of the whole population against the bound that samples of it give."""
    population, judge = made_up(200_000, rows=200_000), Judge("loss", 0.01)
    rule = EXITS["latent"](0.25)
    loops = exit_loops(rule, population.scores["latent"]) - 1
    n = torch.arange(200_000)
    left, whole = population.answers.loss[loops, n], population.answers.loss[-1]
    truth = float((left - whole).mean() / whole.mean())
    over = 0
    for part in torch.randperm(200_000).split(500):
        rest = Answers(left[part], left[part] < 0, part, loops[part])
        full = replace(rest, loss=whole[part])
        over += judge(0.25, rest, full).bound < truth
    assert 0.01 < over / 400 < 0.11


# -- fitting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(EXITS))
@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_curves_go_from_tight_to_loose(name: str, metric: Any) -> None:
    seen, kind = made_up(), EXITS[name]
    curve = trade_curve(kind, seen, Judge(metric, 0.01))
    loops = [trade.mean_loops for trade in curve]
    assert loops == sorted(loops, reverse=True)
    assert loops[0] > 7.9
    assert curve[0].cost == pytest.approx(0.0, abs=1e-3)
    values = [trade.threshold for trade in curve]
    assert values == sorted(values, reverse=kind.above)


def test_thresholds_are_in_range_and_span_the_scores() -> None:
    scores = torch.randn(6, 1000).abs().double()
    scores[0] = math.inf
    found = thresholds(EXITS["kl"], scores)
    assert found[0] == 0.0
    assert found[-1] == float(scores[1:].max())
    assert thresholds(EXITS["fixed"], scores) == [6, 5, 4, 3, 2, 1]
    shares = thresholds(EXITS["gate"], scores)
    assert shares[0] == 1.0
    assert all(0 < value <= 1 for value in shares)
    assert thresholds(EXITS["latent"], torch.full((2, 3), math.inf)) == [0.0]


def trade(bound: float, threshold: float = 0.0) -> Trade:
    return Trade(threshold, 4.0, 1.0, bound, bound, 100)


def test_the_loosest_before_the_first_that_fails() -> None:
    curve = [trade(0.0, 1), trade(0.004, 2), trade(0.006, 3), trade(0.001, 4)]
    assert loosest(curve, 0.005) is curve[1]
    assert loosest(curve, 0.01) is curve[3]
    assert loosest(curve[2:], 0.005) is None


def test_a_threshold_is_tightened_until_it_holds() -> None:
    curve, asked = [trade(0.0, value) for value in range(20)], []

    def real(holds: float) -> Any:
        def passes(threshold: float) -> Trade:
            asked.append(threshold)
            return trade(0.0 if threshold <= holds else 1.0, threshold)

        return passes

    found = tightened(curve, curve[15], 0.01, real(9))
    assert found is not None
    assert found.threshold == 9
    assert asked == [15, 14, 12, 8, 10, 9]
    asked.clear()
    kept = tightened(curve, curve[15], 0.01, real(15))
    assert kept is not None
    assert (kept.threshold, asked) == (15, [15])
    assert tightened(curve, curve[15], 0.01, real(-1)) is None
    assert asked[-1] == 0


@pytest.mark.parametrize("budget", [0.0, -0.1, 1.0, math.nan])
def test_a_budget_that_is_none(budget: float) -> None:
    nobody: Any = None
    with pytest.raises(InputError, match=rf"budget is {budget}; it must lie between 0 and 1"):
        calibrate(nobody, [], [], [], n_loops=2, budget=budget, metric="loss")


def noise(hits: Tensor) -> Answers:
    n = len(hits)
    return Answers(hits.double(), hits, torch.arange(n), torch.ones(n))


def test_too_few_positions_to_tell() -> None:
    from open_mythos.eval.calibration import _enough

    few = noise(torch.ones(100, dtype=torch.bool))
    with pytest.raises(InputError, match=r"100 scored positions.*noise alone is 3\.000%"):
        _enough(Judge("accuracy", 0.01), few)
    _enough(Judge("accuracy", 0.04), few)
    with pytest.raises(InputError, match=r"none of 100 scored positions is right"):
        _enough(Judge("accuracy", 0.04), noise(torch.zeros(100, dtype=torch.bool)))


# -- the promise, on a trained network -------------------------------------------------------------

LOOPS = 6


@pytest.fixture(scope="module")
def pupil() -> tuple[OpenMythos, Task]:
    """Pointer chasing over five states, up to three hops, at random depth: some seconds."""
    data = DataConfig(
        kind="pointer", batch_size=32, states=5, queries=5, max_hops=3, layout="joint",
        maps="cycle", task={"told": True},
    )  # fmt: skip
    shape = small(vocab_size=data.build_task(0).vocab_size, dim=32, max_seq_len=32).to_dict()
    recipe = Recipe(
        name="pupil",
        model=MythosConfig.from_dict({**shape, "core_ffn": "dense", "coda_layers": 0}),
        data=data,
        depth=DepthConfig(kind="uniform", mean=4, min=2, max=LOOPS),
        optim=OptimConfig(lr=5e-3, betas=(0.9, 0.98)),
        curriculum=CurriculumConfig(threshold=0.9, momentum=0.5, min_steps=4),
        steps=200,
        device="cpu",
    )
    source = build_sources(recipe)
    state = build_state(recipe, source.train, torch.device("cpu"))
    for _ in range(recipe.steps):
        train_step(state, source.train, recipe)
    model, task = state.model, source.train
    assert isinstance(model, OpenMythos)
    assert isinstance(task, Task)
    with torch.no_grad():  # a gate that knows little keeps its promise all the same
        model.recurrent.act.halt.weight.mul_(4.0)
        model.recurrent.act.halt.bias.fill_(-1.0)
    return model, task


def asked(task: Task, first: int, count: int) -> list[Batch]:
    return [task.evaluation_batch(1 + seed % 3, seed=seed) for seed in range(first, first + count)]


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "halted"), [("loss", "continue"), ("accuracy", "freeze")])
def test_the_budget_is_kept_on_fresh_data(
    metric: Any, halted: Any, pupil: tuple[OpenMythos, Task]
) -> None:
    """By every exit, within the budget and three standard errors; and loops are saved."""
    model, task = pupil
    model.cfg.halted = model.recurrent.cfg.halted = halted
    kinds, budget, judge = list(EXITS.values()), 0.03, Judge(metric, 0.03)
    found = calibrate(
        model, asked(task, 0, 12), asked(task, 100, 12), kinds,
        n_loops=LOOPS, budget=budget, metric=metric,
    )  # fmt: skip
    fresh = asked(task, 1000, 12)
    full = answered(model, fresh, LOOPS)
    for kind in kinds:
        one = found.exits[kind.name]
        assert one.verified is not None
        assert one.verified.bound <= budget
        rule = kind(one.verified.threshold)
        trade = judge(rule.threshold, answered(model, fresh, LOOPS, rule), full)
        assert trade.cost <= budget + 3 * (trade.bound - trade.cost) / SURE
        assert trade.mean_loops == pytest.approx(one.verified.mean_loops, abs=0.35)
        assert one.work is not None
        assert one.ran is not None
        assert one.ran > 0.0
    assert found.chosen is not None
    best = found.exits[found.chosen]
    assert best.work == min(one.work or math.inf for one in found.exits.values())
    assert best.verified is not None
    assert best.verified.mean_loops < 0.9 * LOOPS
    over = found.overthinking
    assert over.right_somewhere > over.right_at_end
    if metric == "accuracy":
        assert found.oracle.score == pytest.approx(over.right_somewhere)
