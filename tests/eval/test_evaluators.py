import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.chat_rows import ChatRows
from open_mythos.data.prepare import Request, prepare
from open_mythos.data.windows import TokenWindows
from open_mythos.eval.evaluators import standard_evaluators
from open_mythos.eval.perplexity import score
from open_mythos.eval.text_judge import TextJudge
from open_mythos.model.mythos import OpenMythos
from open_mythos.train.evaluation import judge
from open_mythos.train.recipe import DataConfig, DepthConfig, Recipe
from open_mythos.train.sinks import read_metrics
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
    ("data", "granted", "also"),
    [
        ({"kind": "pointer"}, {"hops_1": 1, "hops_2": 2, "hops_4": 4}, {1, 4}),
        ({"kind": "pointer", "loops_per_hop": 2}, {"hops_1": 2, "hops_2": 4, "hops_4": 8}, {1, 8}),
        ({"kind": "parity", "length": 5}, {"bits_1": 2, "bits_5": 2, "bits_10": 2}, {1, 4}),
        # Nine cells have no way of eight steps that is common enough to ask for.
        (
            {"kind": "maze", "task": {"side": 3, "max_level": 4, "queries": 2}},
            {"steps_1": 2, "steps_4": 2},
            {1, 4},
        ),
    ],
)
def test_tasks_are_judged_within_and_beyond_the_trained_range(
    tmp_path: Path, data: dict[str, object], granted: dict[str, int], also: set[int]
) -> None:
    recipe = replace(RECIPE, data=replace(RECIPE.data, **data))  # type: ignore[arg-type]
    evaluators = standard_evaluators(recipe, build_sources(recipe))
    found = train(recipe, tmp_path, evaluators=evaluators).evaluation
    assert found is not None
    wanted = {f"{n}/{key}" for n in granted for key in ("accuracy", "loss")}
    wanted |= {f"{n}/accuracy_at_{k}" for n, own in granted.items() for k in also | {own}}
    assert found.values.keys() == wanted
    assert all(0 <= v <= 1 for k, v in found.values.items() if "accuracy" in k)
    for name, own in granted.items():
        assert found.values[f"{name}/accuracy"] == found.values[f"{name}/accuracy_at_{own}"]


def text_recipe(tmp_path: Path, **changes: object) -> Recipe:
    path = tmp_path / "text.txt"
    path.write_text("\f".join(f"page {i} of a short book" for i in range(40)))
    data = DataConfig(kind="text", corpus=str(path), tokenizer="byte", seq_len=16, batch_size=4)
    return replace(RECIPE, data=data, **changes)  # type: ignore[arg-type]


def test_text_is_judged_at_the_mean_depth_of_training_and_beside_it(tmp_path: Path) -> None:
    recipe = text_recipe(tmp_path)
    sources = build_sources(recipe)
    model = OpenMythos(recipe.model)
    evaluators = standard_evaluators(recipe, sources)
    assert evaluators.keys() == {"validation", "samples"}
    assert isinstance(sources.evaluation, TokenWindows)
    batches = list(sources.evaluation.evaluation_batches())
    expected = score(model, batches, 2, tokenizer=sources.tokenizer)
    found = evaluators["validation"](model, 0)
    losses = {n: score(model, batches, n).loss for n in (1, 2, 4)}
    wanted = {**expected.numbers(), **{f"loss_at_{n}": loss for n, loss in losses.items()}}
    assert found == pytest.approx(wanted, rel=1e-5)
    assert len({round(loss, 6) for loss in losses.values()}) == 3


def test_the_recipe_says_how_deep_how_much_and_what_is_written(tmp_path: Path) -> None:
    recipe = text_recipe(
        tmp_path, eval_loops=(3, 7), eval_tokens=33, eval_samples=1, eval_prompts=("page", "of")
    )
    evaluators = standard_evaluators(recipe, build_sources(recipe))
    model = OpenMythos(recipe.model)
    numbers = evaluators["validation"](model, 0)
    assert {k for k in numbers if "_at_" in k} == {"loss_at_2", "loss_at_3", "loss_at_7"}
    judge = evaluators["validation"]
    assert isinstance(judge, TextJudge)
    assert sum(batch.ids.shape[0] for batch in judge.rows()) == 3  # of 16 targets each
    texts = evaluators["samples"](model, 0)
    assert texts.keys() == {"1"}
    assert str(texts["1"]).startswith("page\u25b8")
    none = replace(recipe, eval_samples=0)
    assert standard_evaluators(none, build_sources(none)).keys() == {"validation"}


def test_a_run_on_text_leaves_its_samples(tmp_path: Path) -> None:
    recipe = text_recipe(tmp_path, eval_every=1)
    sources = build_sources(recipe)
    result = train(recipe, tmp_path / "run", evaluators=standard_evaluators(recipe, sources))
    assert result.evaluation is not None
    assert result.evaluation.texts.keys() == {"samples/1", "samples/2"}
    files = sorted((tmp_path / "run" / "samples").iterdir())
    assert [file.name for file in files] == ["step_0000001.txt", "step_0000002.txt"]
    assert result.evaluation.texts["samples/2"] in files[1].read_text("utf-8")
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["texts"] == result.evaluation.texts


@pytest.mark.parametrize("kind", ["text", "pointer", "parity"])
def test_no_number_depends_on_the_batch_size_of_training(tmp_path: Path, kind: str) -> None:
    base = text_recipe(tmp_path, eval_tokens=100) if kind == "text" else RECIPE
    found = []
    torch.manual_seed(0)
    model = OpenMythos(RECIPE.model)
    for batch_size in (1, 4, 7):
        data = replace(base.data, kind=kind, batch_size=batch_size, length=5)  # type: ignore[arg-type]
        recipe = replace(base, data=data)
        evaluators = standard_evaluators(recipe, build_sources(recipe))
        record = judge(evaluators, model, 0, torch.device("cpu"))
        found.append(record)
    assert found[0].values
    for record in found[1:]:
        assert record == found[0]


def test_chats_are_judged_on_the_answers_held_out() -> None:
    chats = Path(__file__).parents[1] / "data" / "conversations.jsonl"
    data = DataConfig(kind="chat", corpus=str(chats), tokenizer="byte", seq_len=64, batch_size=2)
    recipe = replace(RECIPE, data=data)
    sources = build_sources(recipe)
    assert isinstance(sources.evaluation, ChatRows)
    model = OpenMythos(recipe.model)
    found = standard_evaluators(recipe, sources)["validation"](model, 0)
    whole = score(model, sources.evaluation.evaluation_batches(), 2)
    assert found["loss"] == pytest.approx(whole.loss, abs=1e-6)
    # Bytes of the answers, of which the ends of turns have none.
    said = [d.ids[d.scored] for d in sources.evaluation.dialogues]
    n_bytes = sum(int((ids < 256).sum()) for ids in said)
    nats = found["bits_per_byte"] * math.log(2) * n_bytes
    assert nats == pytest.approx(whole.loss * whole.n_targets, rel=1e-5)


def test_a_mixture_is_judged_by_each_of_its_parts(tmp_path: Path) -> None:
    folders = []
    for place in ("web", "code", "old/code"):
        source = tmp_path / f"{place.replace('/', '-')}.txt"
        source.write_text("\f".join(f"{place} {i}: " + "word " * i for i in range(20)))
        request = Request(
            sources=(str(source),), out=tmp_path / place, tokenizer="byte", validation_share=0.3
        )
        folders.append(str(prepare(request).folder))
    data = DataConfig(mixture=dict(zip(folders, (1, 2, 3), strict=True)), seq_len=16, batch_size=4)
    recipe = replace(RECIPE, data=data, eval_samples=0)
    sources = build_sources(recipe)
    evaluators = standard_evaluators(recipe, sources)
    assert list(evaluators) == [
        "validation",
        "validation_web",
        f"validation_{folders[1]}",
        f"validation_{folders[2]}",
    ]
    model = OpenMythos(recipe.model)
    found = {name: evaluate(model, 0)["loss"] for name, evaluate in evaluators.items()}
    assert found["validation"] == found[f"validation_{folders[2]}"]
    for folder, loss in zip(folders, list(found.values())[1:], strict=True):
        alone = replace(recipe, data=replace(data, mixture={}, corpus=folder))
        (evaluate,) = standard_evaluators(alone, build_sources(alone)).values()
        assert evaluate(model, 0)["loss"] == loss


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

    # Besides, each difficulty is asked at one loop and at twice what the hardest trained one has.
    assert asked() == {(d, n) for d in (1, 3, 6) for n in (1, 2, 4)}
    wanted = {(1, 4), (3, 12), (6, 24)} | {(d, n) for d in (1, 3, 6) for n in (1, 24)}
    assert asked(loops_per_level=4) == wanted
