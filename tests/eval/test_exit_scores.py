"""What one pass notes of all exits is what each of them would do by itself."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from open_mythos.data.batch import IGNORE, Batch
from open_mythos.errors import InputError
from open_mythos.eval.calibration import exit_loops
from open_mythos.eval.exit_scores import answered, watch
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.exits.registry import exit_named


TEXTS = ["fixed:2", "act:0.9", "latent:0.4", "acceleration:0.4", "kl:0.1", "entropy:2.5",
         "stability:1", "gate:0.7"]  # fmt: skip
LOOPS = 5


@pytest.fixture
def model(tiny_config: Any, randomised: Any, readout: str) -> OpenMythos:
    built: OpenMythos = randomised(OpenMythos(tiny_config(readout=readout)).double())
    built.recurrent.act.halt.bias.data.fill_(-2.0)  # exits before the readout's own halt
    return built


@pytest.fixture
def batches() -> list[Batch]:
    found = []
    for rows in (3, 2):
        ids, targets = torch.randint(37, (2, rows, 6))
        targets[torch.rand(rows, 6) < 0.3] = IGNORE
        found.append(Batch(ids, targets))
    return found


def test_scores_are_those_that_each_exit_forms(model: OpenMythos, batches: list[Batch]) -> None:
    rules = {text: exit_named(text) for text in TEXTS}
    seen = watch(model, batches, LOOPS, rules)
    assert seen.n_loops == LOOPS
    for text, rule in rules.items():
        want = answered(model, batches, LOOPS, text).loops
        left = torch.minimum(exit_loops(rule, seen.scores[text]), seen.answers.loops)
        assert torch.equal(left, want), text
    assert model.training  # as it was


def test_answers_are_those_of_passes_that_end_at_each_loop(
    model: OpenMythos, batches: list[Batch]
) -> None:
    seen = watch(model, batches, LOOPS, {"latent": exit_named("latent")})
    for t in range(LOOPS):
        plain = answered(model, batches, t + 1)
        torch.testing.assert_close(seen.answers.loss[t], plain.loss)
        assert torch.equal(seen.answers.hit[t], plain.hit)
        assert torch.equal(seen.answers.row, plain.row)


def test_every_target_is_scored_once_in_its_row(model: OpenMythos, batches: list[Batch]) -> None:
    found = answered(model, batches, 3)
    want, rows, first = [], [], 0
    for batch in batches:
        logits = model.eval()(batch.ids, 3)
        for row, (line, targets) in enumerate(zip(logits, batch.targets, strict=True)):
            kept = targets != IGNORE
            want.append(F.cross_entropy(line[kept], targets[kept], reduction="none"))
            rows += [first + row] * int(kept.sum())
        first += len(logits)
    torch.testing.assert_close(found.loss, torch.cat(want).detach())
    assert found.row.tolist() == rows


def test_nothing_to_score_is_refused(model: OpenMythos) -> None:
    blank = Batch(torch.zeros(1, 4).long(), torch.full((1, 4), IGNORE))
    with pytest.raises(InputError, match="hold no target"):
        answered(model, [blank], 2)
