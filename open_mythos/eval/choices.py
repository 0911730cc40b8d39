"""Multiple choice: which of several continuations a model expects most."""

from collections.abc import Sequence
from dataclasses import dataclass

from open_mythos.data.tokenizer import Tokenizer
from open_mythos.errors import InputError
from open_mythos.eval.likelihood import encode_pair, likelihoods
from open_mythos.model.mythos import OpenMythos


@dataclass(frozen=True)
class Question:
    """A context and what may follow it.

    Attributes:
        context: What is read first.
        choices: What may follow, with the space that separates it.
        answer: Which of them does.
    """

    context: str
    choices: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if not 0 <= self.answer < len(self.choices):
            raise InputError(
                f"answer is {self.answer}, but there are {len(self.choices)} choices; it is the "
                "index of the right one"
            )
        if not all(self.choices):
            raise InputError("a choice is empty; there is nothing to expect of it")


@dataclass(frozen=True)
class ChoiceScore:
    """How often the right choice was the one expected most.

    Attributes:
        accuracy: By likelihood of the whole choice.
        accuracy_per_character: By likelihood per character, which does not favour short ones.
        n: Questions.
        n_loops: Loops of every pass; None is the model's own number.
    """

    accuracy: float
    accuracy_per_character: float
    n: int
    n_loops: int | None = None


def score_choices(
    model: OpenMythos,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    n_loops: int | None = None,
    *,
    exit: object = None,
) -> ChoiceScore:
    """Ask all questions; of equals the first choice is taken.

    Raises:
        InputError: If there is none.
    """
    if not questions:
        raise InputError("no question is given; a score needs at least one")
    pairs = [encode_pair(tokenizer, q.context, choice) for q in questions for choice in q.choices]
    found = iter(likelihoods(model, pairs, n_loops, exit=exit))
    right = right_per_character = 0
    for question in questions:
        said = [next(found).logprob for _ in question.choices]
        per = [value / len(c) for value, c in zip(said, question.choices, strict=True)]
        right += said.index(max(said)) == question.answer
        right_per_character += per.index(max(per)) == question.answer
    n = len(questions)
    return ChoiceScore(right / n, right_per_character / n, n, n_loops)
