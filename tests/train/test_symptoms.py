from dataclasses import replace
from typing import Any

import pytest

from open_mythos.train.recipe import DepthConfig, Recipe
from open_mythos.train.records import StepRecord
from open_mythos.train.symptoms import STEPS, symptoms


def records(count: int = STEPS, **changes: Any) -> list[StepRecord]:
    """Steps of 3, 4 and 5 loops; a change may be a function of the step."""
    return [
        replace(
            StepRecord(
                step=step,
                loss=2.0,
                accuracy=0.5,
                lr=1e-3,
                grad_norm=1.0,
                n_loops=3 + step % 3,
                mean_loops=2.5,
                tokens=step,
                tokens_per_second=1.0,
                rho_a=0.01,
                state_rms=1.0,
                state_growth=1.05,
                router_entropy=0.97,
            ),
            **{k: v(step) if callable(v) else v for k, v in changes.items()},
        )
        for step in range(1, count + 1)
    ]


@pytest.fixture
def halting(tiny: Recipe) -> Recipe:
    """Drawn depth, four experts of which a token visits two, halting."""
    model = replace(tiny.model, n_experts=4, n_experts_per_tok=2, readout="act")
    return replace(tiny, model=model)


def kinds(found: list[StepRecord], recipe: Recipe) -> list[str]:
    return [symptom.kind for symptom in symptoms(found, recipe)]


def test_a_sound_run_is_left_alone(halting: Recipe) -> None:
    assert kinds(records(), halting) == []
    bare = records(rho_a=None, state_growth=None, router_entropy=None)
    assert kinds(bare, halting) == []


@pytest.mark.parametrize(
    ("kind", "quiet", "loud"),
    [
        ("endless_carry", {"rho_a": 0.989}, {"rho_a": 0.991}),
        # Three loops: twice the factor from the first to the last.
        (
            "growing_state",
            {"n_loops": 3, "state_growth": 1.73},
            {"n_loops": 3, "state_growth": 1.74},
        ),
        ("growing_state", {"n_loops": 5, "state_growth": 1.31}, {"state_growth": 3.0}),
        # exp(H) of 2.5 experts is a quarter of the way from two to four.
        ("narrow_router", {"router_entropy": 0.662}, {"router_entropy": 0.660}),
        (
            "idle_halting",
            {"mean_loops": lambda s: 2.99 + s % 3},
            {"mean_loops": lambda s: 3 + s % 3},
        ),
        ("idle_halting", {"mean_loops": 1.03}, {"mean_loops": 1.01}),
    ],
)
def test_a_warning_begins_at_its_threshold(
    halting: Recipe, kind: str, quiet: dict[str, Any], loud: dict[str, Any]
) -> None:
    assert kind not in kinds(records(**quiet), halting)
    assert kinds(records(**loud), halting) == [kind]


def test_halting_that_plays_no_part_is_not_missed(halting: Recipe) -> None:
    last = replace(halting, model=replace(halting.model, readout="last"))
    assert kinds(records(mean_loops=lambda s: 3 + s % 3), last) == []
    one = records(n_loops=1, mean_loops=1.0)
    assert "idle_halting" not in kinds(one, halting)


def test_one_depth_is_a_warning_if_nothing_but_the_recipe_fixes_it(halting: Recipe) -> None:
    fixed = replace(halting, depth=DepthConfig(kind="fixed", mean=4))
    pinned = records(n_loops=4, mean_loops=2.5)
    assert kinds(pinned, fixed) == ["one_depth"]
    assert kinds(pinned, halting) == []
    assert kinds(records(mean_loops=2.5), fixed) == []
    assert kinds(records(n_loops=4, level=lambda s: s % 2), fixed) == []
    assert kinds(records(n_loops=1, mean_loops=1.0), fixed) == []


def test_too_few_steps_and_skipped_ones_say_nothing(halting: Recipe) -> None:
    assert kinds(records(STEPS - 1, rho_a=1.0), halting) == []
    assert kinds(records(rho_a=1.0, skipped=True), halting) == []
    late = records(2 * STEPS, rho_a=lambda s: 1.0 if s <= STEPS else 0.1)
    assert kinds(late, halting) == []


def test_layers_of_one_core_are_not_taken_for_more_experts(halting: Recipe) -> None:
    """Two layers with two of four experts each: half of eight, by the load of both together."""
    deep = replace(halting, model=replace(halting.model, core_layers=2))
    assert kinds(records(router_entropy=2 / 3), deep) == ["narrow_router"]
    assert kinds(records(router_entropy=0.97), deep) == []


def test_a_warning_says_its_number(halting: Recipe) -> None:
    (grown,) = symptoms(records(state_growth=3.0), halting)
    assert "3.00x per loop" in grown.text
    (narrow,) = symptoms(records(router_entropy=0.5), halting)
    assert "as if 2.0 of them" in narrow.text
