import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.windows import TokenWindows
from open_mythos.eval.evaluators import standard_evaluators, text_evaluator
from open_mythos.eval.perplexity import score
from open_mythos.model.mythos import OpenMythos
from open_mythos.train.recipe import DataConfig, DepthConfig, Recipe
from open_mythos.train.sources import Sources, build_sources
from open_mythos.train.trainer import train


RECIPE = Recipe(
    name="judged",
    model=MythosConfig(
        vocab_size=257,
        dim=16,
        n_heads=2,
        n_kv_heads=1,
        attn_type="gqa",
        max_seq_len=64,
        max_loop_iters=4,
        prelude_layers=0,
        coda_layers=0,
        n_experts=2,
        n_experts_per_tok=1,
        expert_dim=8,
        dense_hidden=16,
    ),
    data=DataConfig(kind="pointer", batch_size=2, states=4, queries=3, max_hops=2),
    depth=DepthConfig(kind="uniform", min=1, max=3),
    steps=2,
)


class Spied(nn.Module):
    """A network that is a function, which is told the loops too."""

    def __init__(self, function: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
        super().__init__()
        self.function = function
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, ids: torch.Tensor, n_loops: int) -> torch.Tensor:
        return self.function(ids, n_loops)


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ({"kind": "pointer"}, {"hops_1", "hops_2", "hops_4"}),
        ({"kind": "parity", "length": 5}, {"bits_1", "bits_5", "bits_10"}),
        ({"kind": "sums", "task": {"max_level": 4}}, {"terms_1", "terms_4", "terms_8"}),
        # Nine cells have no way of eight steps that is common enough to ask for.
        (
            {"kind": "maze", "task": {"side": 3, "max_level": 4, "queries": 2}},
            {"steps_1", "steps_4"},
        ),
    ],
)
def test_tasks_are_judged_within_and_beyond_the_trained_range(
    tmp_path: Path, data: dict[str, object], names: set[str]
) -> None:
    recipe = replace(RECIPE, data=replace(RECIPE.data, **data))  # type: ignore[arg-type]
    evaluators = standard_evaluators(recipe, build_sources(recipe))
    assert evaluators.keys() == names
    found = train(recipe, tmp_path, evaluators=evaluators).evaluation
    assert found is not None
    assert found.values.keys() == {f"{n}/{key}" for n in names for key in ("accuracy", "loss")}
    assert all(0 <= v <= 1 for k, v in found.values.items() if k.endswith("accuracy"))


def test_text_is_judged_at_the_mean_depth_of_training(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\f".join(f"page {i} of a short book" for i in range(40)))
    data = DataConfig(kind="text", corpus=str(path), tokenizer="byte", seq_len=16, batch_size=4)
    recipe = replace(RECIPE, data=data)
    sources = build_sources(recipe)
    model = OpenMythos(recipe.model)
    (evaluate,) = standard_evaluators(recipe, sources).values()
    assert isinstance(sources.evaluation, TokenWindows)
    batches = list(sources.evaluation.evaluation_batches())
    expected = score(model, batches, 2, tokenizer=sources.tokenizer)
    assert evaluate(model, 0) == expected.numbers()
    assert expected.bits_per_byte is not None
    first = text_evaluator(sources.evaluation, 2, sources.tokenizer, batches=1)(model, 0)
    letters = int(((batches[0].targets >= 0) & (batches[0].targets < 256)).sum())
    bits = first["loss"] * batches[0].scored / math.log(2)
    assert first["bits_per_byte"] == pytest.approx(bits / letters)


@pytest.mark.parametrize(("length", "names"), [(32, "1 32 64"), (33, "1 33"), (64, "1 64")])
def test_difficulties_that_the_model_has_no_room_for_are_left_out(
    tmp_path: Path, length: int, names: str
) -> None:
    recipe = replace(RECIPE, data=replace(RECIPE.data, kind="parity", length=length), steps=1)
    evaluators = standard_evaluators(recipe, build_sources(recipe))
    assert list(evaluators) == [f"bits_{n}" for n in names.split()]
    assert train(recipe, tmp_path, evaluators=evaluators).status == "finished"


def test_a_foreign_source_has_no_standard_judge() -> None:
    assert standard_evaluators(RECIPE, Sources(build_sources(RECIPE).train)) == {}


def test_loops_are_those_that_a_task_grants_and_else_the_mean_of_training() -> None:
    loops: list[tuple[int, int]] = []

    def spy(ids: torch.Tensor, n_loops: int) -> torch.Tensor:
        loops.append((ids.shape[1], n_loops))
        return torch.zeros(*ids.shape, 9)

    def asked(**task: int) -> set[tuple[int, int]]:
        data = DataConfig(kind="sums", batch_size=2, task={"max_level": 3, "start": False, **task})
        recipe = replace(RECIPE, data=data)
        loops.clear()
        for evaluate in standard_evaluators(recipe, build_sources(recipe)).values():
            evaluate(Spied(spy), 0)
        return set(loops)

    assert asked() == {(1, 2), (3, 2), (6, 2)}
    assert asked(loops_per_level=4) == {(1, 4), (3, 12), (6, 24)}
