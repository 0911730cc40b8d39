import pytest

from open_mythos.eval.accuracy import those_with_room
from open_mythos.suite.problems import GROUPS, MORE, PROBLEMS, problem
from open_mythos.train.task_recipes import task_words


EVERY = [(size, name) for size, known in PROBLEMS.items() for name in known]
FURTHER = [(size, name) for size, known in MORE.items() for name in known]


@pytest.mark.parametrize(("size", "name"), EVERY)
def test_what_is_asked_exists_has_room_and_goes_beyond_the_training(size: str, name: str) -> None:
    asked = PROBLEMS[size][name]()
    assert asked.name == name
    for recipe in (asked.recipe, *asked.own.values()):
        task = recipe.data.build_task(seed=0)
        room = recipe.model.max_seq_len
        assert those_with_room(task, asked.difficulties, room) == list(asked.difficulties)
        assert task.max_level in asked.difficulties
        assert max(asked.difficulties) >= 2 * task.max_level
        granted = task.loops_for(task.max_level)
        assert max(asked.loops) >= 4 * (granted or recipe.depth.declared_mean)
        if granted:
            assert {d * asked.per_level for d in asked.difficulties} <= set(asked.loops)


@pytest.mark.parametrize(("size", "name"), EVERY)
def test_the_hardest_rows_can_be_drawn(size: str, name: str) -> None:
    task = PROBLEMS[size][name]().recipe.data.build_task(seed=0)
    hardest = max(PROBLEMS[size][name]().difficulties)
    assert task.evaluation_batch(hardest).ids.shape[1] == task.row_length(hardest)


@pytest.mark.parametrize(("size", "name"), FURTHER)
def test_what_only_its_name_calls_up_is_asked_far_beyond_the_training(size: str, name: str) -> None:
    asked = MORE[size][name]()
    task, most = asked.task, asked.task.max_level
    assert asked.name == name
    wanted = {most, 2 * most, 4 * most}
    assert wanted <= set(asked.difficulties)
    room = asked.recipe.model.max_seq_len
    assert those_with_room(task, asked.difficulties, room) == list(asked.difficulties)
    if asked.per_level:
        assert set(asked.difficulties) == set(asked.loops)
    else:
        # Four times the loops of the trained difficulty, at least, and of the hardest on a GPU.
        assert {4 * most, 2 * 4 * most} <= set(asked.loops)
        assert size == "cpu" or 4 * 8 * most in asked.loops


def test_groups_are_of_tasks_that_both_sizes_have() -> None:
    for names in GROUPS.values():
        assert set(names) <= set(MORE["cpu"]) & set(MORE["gpu"])


def test_the_model_gets_room_for_what_is_asked_and_for_no_more() -> None:
    asked = problem(task_words(), "words", (3, 12, 96))
    assert asked.name == "words"
    assert asked.recipe.model.max_seq_len == 97
    assert asked.per_level == 0
    assert problem(task_words(), "words", (3,)).recipe.model.max_seq_len == 13
