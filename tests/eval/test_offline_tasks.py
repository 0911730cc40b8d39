"""Offline tasks: right answers, fair odds, nothing that training has seen."""

import re
from collections import Counter

import pytest

from open_mythos.data.corpus import plays_text, train_validation_split
from open_mythos.errors import InputError
from open_mythos.eval.choices import Question
from open_mythos.eval.offline_tasks import (
    CONTEXT_LINES,
    OFFLINE,
    held_out_scenes,
    line_questions,
    offline_task,
    step_questions,
    sum_prompts,
)


def test_texts_are_those_that_recipes_hold_out() -> None:
    train, _ = train_validation_split(plays_text())
    assert held_out_scenes()
    assert all(scene not in train for scene in held_out_scenes())
    assert all(scene in plays_text() for scene in held_out_scenes())


def test_the_right_line_follows_in_the_play_and_the_others_do_not() -> None:
    scenes = ["\n".join(x for x in s.splitlines() if x.strip()) for s in held_out_scenes()]
    for question in line_questions():
        assert len(question.context.splitlines()) == CONTEXT_LINES
        assert any(question.context + question.choices[question.answer] in s for s in scenes)
        assert len(set(question.choices)) == len(question.choices)
    spread = Counter(question.answer for question in line_questions())
    assert min(spread.values()) > 0.6 * len(line_questions()) / 4


def test_steps_lead_where_the_arrows_say() -> None:
    for question in step_questions():
        arrows = dict(re.findall(r"(\w) to (\w)", question.context))
        found = re.search(r"From (\w), after (\d) steps:", question.context)
        assert found
        at = found[1]
        for _ in range(int(found[2])):
            at = arrows[at]
        assert question.choices[question.answer] == f" {at}"


def test_sums_are_right_and_so_are_those_shown() -> None:
    for prompt in sum_prompts():
        *shown, asked = prompt.text.splitlines()
        lines = [*shown, f"{asked} {prompt.answer}"]
        for line in lines:
            a, b, total = map(int, re.fullmatch(r"(\d+) \+ (\d+) = (\d+)", line).groups())
            assert a + b == total


@pytest.mark.parametrize("name", OFFLINE)
def test_a_task_is_the_same_every_time(name: str) -> None:
    task = offline_task(name)
    first = list(task.make())
    task.make.cache_clear()  # type: ignore[attr-defined]
    assert list(task.make()) == first
    assert isinstance(first[0], Question) == (task.kind == "choices")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'mythos_plays'"):
        offline_task("mythos_play")
