"""Predictions compared and weighed, against torch's own measures."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from open_mythos.errors import InputError
from open_mythos.nn.loop.exits.criterion import Kept, Seen
from open_mythos.nn.loop.exits.predictions import KL, Entropy, Oracle, Stability


BLANK = torch.zeros(2, 3, 1, dtype=torch.float64)


@pytest.fixture
def logs() -> Tensor:
    """Log-probabilities of five loops, two rows of three positions, seven words."""
    return torch.randn(5, 2, 3, 7, dtype=torch.float64).log_softmax(-1)


def test_kl_is_that_of_the_later_from_the_earlier(logs: Tensor) -> None:
    first, _ = KL(0.1).score(Seen(1, BLANK, BLANK, log_probs=logs[0]), ())
    assert first.isinf().all()
    score, _ = KL(0.1).score(Seen(2, BLANK, BLANK, log_probs=logs[1], log_probs_before=logs[0]), ())
    want = kl_divergence(Categorical(logits=logs[1]), Categorical(logits=logs[0]))
    torch.testing.assert_close(score, want)


def test_entropy(logs: Tensor) -> None:
    score, _ = Entropy(0.1).score(Seen(1, BLANK, BLANK, log_probs=logs[0]), ())
    torch.testing.assert_close(score, Categorical(logits=logs[0]).entropy())


def test_stability_counts_loops_since_the_last_change() -> None:
    said = [3, 3, 1, 1, 1, 2]
    kept, runs = Kept(), []
    for t, word in enumerate(said, start=1):
        logs = torch.full((1, 1, 4), -9.0).index_fill_(-1, torch.tensor([word]), 0.0)
        score, kept = Stability(2).score(
            Seen(t, BLANK[:1, :1], BLANK[:1, :1], log_probs=logs), kept
        )
        runs.append(score.item())
    assert runs == [0, 1, 0, 1, 2, 0]


def test_the_oracle_knows_the_answer(logs: Tensor) -> None:
    targets = logs[0].argmax(-1)
    targets[0, 1], targets[1, 2] = -100, (targets[1, 2] + 1) % 7
    oracle = Oracle(targets)
    done = oracle.done(oracle.score(Seen(1, BLANK, BLANK, log_probs=logs[0]), ())[0])
    assert done.tolist() == [[True, False, True], [True, True, False]]
    with pytest.raises(InputError, match=r"targets \(2, 3\), the pass has positions \(1, 3\)"):
        oracle.score(Seen(1, BLANK[:1], BLANK[:1], log_probs=logs[0, :1]), ())
