import pytest
import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.tasks.pointer import PointerChase
from open_mythos.eval.accuracy import accuracy
from open_mythos.eval.task_judge import BATCHES, ROWS, TaskJudge
from open_mythos.model.mythos import OpenMythos


@pytest.fixture
def model() -> OpenMythos:
    return OpenMythos(
        MythosConfig(
            vocab_size=4,
            dim=16,
            n_heads=2,
            n_kv_heads=1,
            attn_type="gqa",
            max_seq_len=16,
            n_experts=2,
            n_experts_per_tok=1,
            expert_dim=8,
            prelude_layers=0,
            coda_layers=0,
        )
    )


def chase(batch_size: int) -> PointerChase:
    return PointerChase(states=4, queries=3, batch_size=batch_size)


def test_a_difficulty_is_scored_with_its_loops_and_others(model: OpenMythos) -> None:
    found = TaskJudge(chase(5), 2, 3, (1, 3))(model, 0)
    assert found.keys() == {"accuracy", "loss", "accuracy_at_1", "accuracy_at_3"}
    whole = accuracy(model, chase(ROWS), 2, 3, batches=BATCHES)
    assert (found["accuracy"], found["loss"]) == (whole.accuracy, whole.loss)
    assert found["accuracy_at_3"] == whole.accuracy
    assert found["accuracy_at_1"] == accuracy(model, chase(ROWS), 2, 1, batches=BATCHES).accuracy


def test_without_other_loops_there_are_two_numbers(model: OpenMythos) -> None:
    assert TaskJudge(chase(5), 2, 3)(model, 0).keys() == {"accuracy", "loss"}


def test_the_rows_are_always_the_same(model: OpenMythos) -> None:
    judge = TaskJudge(chase(1), 4, 1, (2,))
    torch.manual_seed(1)
    first = judge(model, 0)
    assert judge(model, 7) == first == TaskJudge(chase(30), 4, 1, (2,))(model, 0)
