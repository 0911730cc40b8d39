"""What every exit owes: a threshold in range, and a boolean per position."""

from typing import Any

import pytest
import torch

from open_mythos.errors import ConfigError, InputError
from open_mythos.nn.loop.exits.criterion import Criterion, Own, Seen, unknown
from open_mythos.nn.loop.exits.registry import EXITS


def seen(loop: int = 1) -> Seen:
    return Seen(loop, torch.zeros(2, 3, 4), torch.ones(2, 3, 4))


@pytest.mark.parametrize("name", sorted(EXITS))
@pytest.mark.parametrize("wrong", [-0.1, float("nan"), float("inf"), True, "0.5", None])
def test_a_threshold_that_is_no_number_in_range_is_refused(name: str, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=rf"threshold of exit '{name}' is .*; it must"):
        EXITS[name](wrong)


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("fixed", 0, "whole number of at least 1"),
        ("fixed", 2.5, "whole number of at least 1"),
        ("stability", 0, "whole number of at least 1"),
        ("gate", 0.0, r"lie in \(0, 1\]"),
        ("gate", 1.1, r"lie in \(0, 1\]"),
    ],
)
def test_what_the_threshold_counts_bounds_it(name: str, wrong: float, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        EXITS[name](wrong)


@pytest.mark.parametrize("name", sorted(EXITS))
def test_who_is_done_only_grows_with_a_looser_threshold(name: str) -> None:
    kind, score = EXITS[name], torch.rand(100) * 3
    tight, loose = (1.0, 0.2) if kind.above else (0.2, 1.0)
    if kind.whole:
        tight, loose = 2, 1
    late, early = kind(tight).done(score), kind(loose).done(score)
    assert bool((early | ~late).all())
    assert early.sum() > late.sum()


def test_an_exit_says_its_name_and_threshold() -> None:
    assert str(EXITS["kl"](0.0005)) == "kl:0.0005"
    assert str(EXITS["fixed"](4)) == "fixed:4"


class Asks:
    predictions = 2
    gated = True

    def done(self, what: Seen) -> Any:
        return what.after[..., 0] > what.loop


def test_a_users_object_is_told_what_it_asks_for() -> None:
    own = Own(Asks())
    assert (own.predictions, own.gated) == (2, True)
    score, kept = own.score(seen(loop=0), ())
    assert kept == ()
    assert own.done(score).tolist() == [[True] * 3] * 2
    assert Own(type("Plain", (), {"done": lambda self, what: what})()).predictions == 0


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (torch.ones(2, 3), r"torch\.float32 \(2, 3\)"),
        (torch.ones(2, dtype=torch.bool), r"torch\.bool \(2,\)"),
        (True, "bool"),
    ],
    ids=["a score", "per row", "one for all"],
)
def test_another_answer_is_refused(answer: Any, found: str) -> None:
    odd = type("Odd", (), {"done": lambda self, what: answer})
    with pytest.raises(InputError, match=rf"Odd\.done returned {found}; .*\(2, 3\)"):
        Own(odd()).score(seen(), ())


def test_scores_are_kept_in_float32_or_wider() -> None:
    assert unknown(torch.zeros(2, 3, 4).bfloat16()).dtype == torch.float32
    assert unknown(torch.zeros(2, 3, 4).double(), 1.0).dtype == torch.float64


def test_a_criterion_without_a_score_is_none() -> None:
    with pytest.raises(NotImplementedError):
        type("Bare", (Criterion,), {"name": "bare"})(1.0).score(seen(), ())
