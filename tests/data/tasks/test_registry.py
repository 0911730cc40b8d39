from typing import get_args

import pytest

from open_mythos.data.tasks.pointer import PointerChase
from open_mythos.data.tasks.registry import TASKS, TaskKind, build_task, settings_of
from open_mythos.errors import InputError


def test_the_names_are_those_that_a_recipe_may_hold() -> None:
    assert list(TASKS) == list(get_args(TaskKind))


@pytest.mark.parametrize("kind", TASKS)
def test_a_task_is_built_by_name_with_what_is_given(kind: str) -> None:
    task = build_task(kind, {}, batch_size=3, seed=5)
    assert type(task) is TASKS[kind]
    assert (task.batch_size, task.seed) == (3, 5)
    assert task == TASKS[kind](batch_size=3, seed=5)  # type: ignore[call-arg]
    assert not {"batch_size", "seed"} & set(settings_of(kind))


def test_settings_reach_the_task() -> None:
    built = build_task(
        "pointer", {"states": 5, "layout": "joint", "told": True}, batch_size=2, seed=0
    )
    assert built == PointerChase(5, batch_size=2, layout="joint", told=True)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("mase", {}, "no task is called 'mase'; did you mean 'maze'"),
        ("maze", {"sides": 4}, "maze has no setting 'sides'; did you mean 'side'"),
        ("maze", {"seed": 4}, "maze has no setting 'seed'"),
        ("maze", {"side": "4"}, "side must be an int, not '4'"),
        ("maze", {"ask": "steps"}, "ask is 'steps'; did you mean 'step'"),
        ("maze", {"ask": 3}, "ask is 3; known: reach, step"),
        ("p-hop", {"told": 1}, "told is True or False, not 1"),
    ],
)
def test_what_does_not_fit_is_named(kind: str, settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        build_task(kind, settings, batch_size=2, seed=0)  # type: ignore[arg-type]
