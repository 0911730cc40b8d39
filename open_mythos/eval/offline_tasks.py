"""Offline tasks: texts and questions made of what is bundled, the same for every model and run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from open_mythos.data.corpus import plays_text, split_documents, train_validation_split
from open_mythos.data.streams import Purpose, stream
from open_mythos.errors import InputError, did_you_mean
from open_mythos.eval.choices import Question


Kind = Literal["texts", "choices", "answers"]

SHARE = 0.1  # of the plays, as recipes hold out by default: no model of theirs has seen it
QUESTIONS = 200
CHOICES = 4
CONTEXT_LINES = 4
PLACES = "abcdef"


@dataclass(frozen=True)
class Prompt:
    """A text that asks, and what is to be said.

    Attributes:
        text: What is read.
        answer: What is to follow, up to the end of the line.
    """

    text: str
    answer: str


@dataclass(frozen=True)
class OfflineTask:
    """One task.

    Attributes:
        name: What it is asked for by.
        kind: "texts" are predicted (bits per byte), of "choices" one is right, "answers" are said.
        make: Its items: str, Question or Prompt, by kind.
    """

    name: str
    kind: Kind
    make: Callable[[], Sequence[object]]


@cache
def held_out_scenes() -> tuple[str, ...]:
    """The scenes of the plays that recipes hold out."""
    _, held_out = train_validation_split(plays_text(), SHARE)
    return tuple(split_documents(held_out))


@cache
def line_questions() -> tuple[Question, ...]:
    """Four lines of a held-out scene, and which of four lines comes next."""
    scenes = [[x for x in scene.splitlines() if x.strip()] for scene in held_out_scenes()]
    spoken = [line for scene in scenes for line in scene if not line.endswith(":")]
    draws = stream(0, Purpose.EVALUATION, 1)
    questions: list[Question] = []
    while len(questions) < QUESTIONS:
        scene = scenes[int(draws.integers(len(scenes)))]
        at = int(draws.integers(CONTEXT_LINES, max(len(scene), CONTEXT_LINES + 1)))
        if at >= len(scene) or scene[at].endswith(":"):
            continue
        right = scene[at]
        others: list[str] = []
        while len(others) < CHOICES - 1:
            line = spoken[int(draws.integers(len(spoken)))]
            if line != right and line not in others:
                others.append(line)
        answer = int(draws.integers(CHOICES))
        lines = [*others[:answer], right, *others[answer:]]
        context = "\n".join(scene[at - CONTEXT_LINES : at])
        questions.append(Question(context, tuple(f"\n{line}" for line in lines), answer))
    return tuple(questions)


@cache
def step_questions() -> tuple[Question, ...]:
    """Where one stands after one to four steps along arrows between places."""
    draws = stream(0, Purpose.EVALUATION, 2)
    questions: list[Question] = []
    for index in range(QUESTIONS):
        steps, arrows = 1 + index % 4, draws.permutation(len(PLACES)).tolist()
        at = start = int(draws.integers(len(PLACES)))
        for _ in range(steps):
            at = arrows[at]
        said = ", ".join(f"{PLACES[i]} to {PLACES[arrows[i]]}" for i in draws.permutation(6))
        text = f"Arrows: {said}. From {PLACES[start]}, after {steps} steps:"
        questions.append(Question(text, tuple(f" {place}" for place in PLACES), at))
    return tuple(questions)


@cache
def sum_prompts() -> tuple[Prompt, ...]:
    """Sums of two numbers below a hundred, after four that are worked out."""
    draws = stream(0, Purpose.EVALUATION, 3)

    def one() -> tuple[str, str]:
        a, b = (int(x) for x in draws.integers(100, size=2))
        return f"{a} + {b} =", f" {a + b}"

    shown = "\n".join("".join(one()) for _ in range(4))
    asked = [one() for _ in range(QUESTIONS)]
    return tuple(Prompt(f"{shown}\n{text}", answer.strip()) for text, answer in asked)


OFFLINE: Mapping[str, OfflineTask] = {
    task.name: task
    for task in (
        OfflineTask("mythos_plays", "texts", held_out_scenes),
        OfflineTask("mythos_lines", "choices", line_questions),
        OfflineTask("mythos_steps", "choices", step_questions),
        OfflineTask("mythos_sums", "answers", sum_prompts),
    )
}


def offline_task(name: str) -> OfflineTask:
    """The task of a name.

    Raises:
        InputError: If there is none.
    """
    if name not in OFFLINE:
        raise InputError(f"there is no offline task {name!r}; {did_you_mean(name, OFFLINE)}")
    return OFFLINE[name]
