import math
from dataclasses import replace
from pathlib import Path

import pytest

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.chat_rows import ChatRows
from open_mythos.data.prepare import Request, prepare
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


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ({"kind": "pointer"}, {"hops_1", "hops_2", "hops_4"}),
        ({"kind": "parity", "length": 5}, {"bits_1", "bits_5", "bits_10"}),
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
    recipe = replace(RECIPE, data=data)
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
