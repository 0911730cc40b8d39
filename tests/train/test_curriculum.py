from itertools import pairwise

from hypothesis import given, settings, strategies as st

from open_mythos.train.curriculum import Progress, advance, start
from open_mythos.train.recipe import CurriculumConfig


ACCURACIES = st.lists(st.floats(0, 1), min_size=1, max_size=60)


def walk(config: CurriculumConfig, accuracies: list[float], top: int) -> list[Progress]:
    seen = [start(config, top)]
    for accuracy in accuracies:
        seen.append(advance(seen[-1], accuracy, config, top))
    return seen


@settings(deadline=None, max_examples=60)
@given(
    accuracies=ACCURACIES,
    top=st.integers(1, 5),
    threshold=st.floats(0.1, 1),
    momentum=st.floats(0, 0.95),
    wait=st.integers(1, 9),
)
def test_levels_rise_one_at_a_time_never_early_and_never_past_the_top(
    accuracies: list[float], top: int, threshold: float, momentum: float, wait: int
) -> None:
    config = CurriculumConfig(threshold=threshold, momentum=momentum, min_steps=wait)
    seen = walk(config, accuracies, top)
    for before, after in pairwise(seen):
        assert after.level - before.level in (0, 1)
        assert after.level <= top
        if after.level > before.level:
            assert before.steps + 1 >= wait
            assert after == Progress(level=after.level)
        else:
            assert after.accuracy is not None
            assert 0 <= after.accuracy <= 1
            ripe = after.steps >= wait and after.accuracy >= threshold
            assert not ripe or after.level == top


def test_perfect_answers_take_the_shortest_way_up() -> None:
    config = CurriculumConfig(threshold=0.95, momentum=0.9, min_steps=3)
    assert [p.level for p in walk(config, [1.0] * 9, 3)] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 3]


def test_one_lucky_step_among_bad_ones_opens_nothing() -> None:
    config = CurriculumConfig(threshold=0.9, momentum=0.9, min_steps=2)
    assert walk(config, [0.2, 0.2, 1.0, 0.2, 1.0], 3)[-1].level == 1


def test_the_running_accuracy_forgets_geometrically() -> None:
    config = CurriculumConfig(threshold=2.0, momentum=0.75)
    accuracies = [0.0, 1.0, 1.0, 0.0]
    expected = accuracies[0]
    for accuracy in accuracies[1:]:
        expected = 0.75 * expected + 0.25 * accuracy
    assert walk(config, accuracies, 9)[-1].accuracy == expected


def test_without_levels_or_at_level_zero_nothing_moves() -> None:
    text = CurriculumConfig()
    assert {p.level for p in walk(text, [1.0] * 50, 0)} == {0}
    full = CurriculumConfig(first_level=0)
    assert {p.level for p in walk(full, [1.0] * 50, 7)} == {0}
    late = CurriculumConfig(first_level=4)
    assert start(late, 7).level == 4
    assert start(late, 2).level == 2
