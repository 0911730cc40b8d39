"""Whole runs on two ranks: against one process, stopped and resumed, and moved between layouts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from open_mythos.config.mythos import MythosConfig
from open_mythos.model.mythos import OpenMythos
from open_mythos.parallel.degrees import Degrees
from open_mythos.train.checkpoints import RunFolder
from open_mythos.train.recipe import (
    DataConfig,
    DepthConfig,
    EngineConfig,
    ObjectiveConfig,
    OptimConfig,
    Recipe,
)
from open_mythos.train.trainer import train
from tests.parallel.twin import TINY
from tests.parallel.workers import Workers


RECIPE = Recipe(
    name="spread",
    model=MythosConfig(**{**TINY, "attn_type": "gqa", "vocab_size": 1024}),
    data=DataConfig(kind="text", batch_size=4, seq_len=12),
    depth=DepthConfig(kind="poisson", mean=2, min=1, max=4),
    optim=OptimConfig(lr=1e-2, warmup_steps=2, schedule="constant"),  # whatever steps= says
    objective=ObjectiveConfig(z_loss=1e-3, ponder=1e-2),
    steps=8,
    eval_every=4,
    save_every=4,
    keep_last=0,
    device="cpu",
)
LAYOUTS = {
    "ddp": Degrees(),
    "fsdp": Degrees(shard=2),
}


def run(out: str, recipe: Recipe, resume: str = "auto") -> tuple[str, int]:
    """A run, or its going on: how it ended, on this rank."""
    result = train(recipe, out, resume=resume)  # type: ignore[arg-type]
    return result.status, result.step


def losses(out: Path) -> list[float]:
    lines = RunFolder(out).metrics_file.read_text(encoding="utf-8").splitlines()
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [r["loss"] for r in records if r["kind"] == "step"]


def weights(out: Path) -> dict[str, Any]:
    newest = list(RunFolder(out).steps().values())[-1]
    return OpenMythos.from_pretrained(newest).state_dict()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    out = tmp_path_factory.mktemp("alone")
    assert run(str(out), RECIPE) == ("finished", RECIPE.steps)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_ranks_take_the_steps_of_one(
    layout: str, alone: Path, tmp_path: Path, two: Workers
) -> None:
    """In one go, then stopped half-way, resumed by two, and by one: in every way the same run."""
    recipe = replace(RECIPE, parallel=LAYOUTS[layout])
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert two(run, str(straight), recipe) == [("finished", 8)] * 2
    assert losses(straight) == pytest.approx(losses(alone), abs=1e-5)
    for name, tensor in weights(alone).items():
        assert tensor.allclose(weights(straight)[name], atol=1e-4), name
    # Two ranks stopped and resumed are the same to the last bit.
    half = replace(recipe, steps=4)
    assert two(run, str(broken), half) == [("finished", 4)] * 2
    assert two(run, str(broken), recipe) == [("finished", 8)] * 2
    first, second = weights(straight), weights(broken)
    assert all(first[name].equal(second[name]) for name in first)
    # One goes on where two stopped, and two where one did.
    moved = tmp_path / "moved"
    two(run, str(moved), half)
    assert run(str(moved), RECIPE) == ("finished", 8)
    assert losses(moved) == pytest.approx(losses(alone), abs=1e-5)
    back = tmp_path / "back"
    assert run(str(back), replace(RECIPE, steps=4)) == ("finished", 4)
    assert two(run, str(back), recipe) == [("finished", 8)] * 2
    assert losses(back) == pytest.approx(losses(alone), abs=1e-5)


@pytest.mark.slow
def test_passes_and_saving_beside_training_change_nothing(
    alone: Path, tmp_path: Path, two: Workers
) -> None:
    engine = EngineConfig(micro_batch=1, async_save=True)
    recipe = replace(RECIPE, engine=engine, parallel=Degrees(shard=2), save_every=1)
    assert two(run, str(tmp_path), recipe) == [("finished", 8)] * 2
    assert losses(tmp_path) == pytest.approx(losses(alone), abs=1e-5)
    assert list(RunFolder(tmp_path).steps()) == list(range(1, 9))
    for name, tensor in weights(alone).items():
        assert tensor.allclose(weights(tmp_path)[name], atol=1e-4), name


@pytest.mark.slow
def test_what_the_first_rank_refuses_is_refused_by_all(
    alone: Path, tmp_path: Path, two: Workers
) -> None:
    for out, resume, said in (
        (alone, "new", "already holds a run"),
        (tmp_path / "none", "resume", "holds no run to resume"),
    ):
        with pytest.raises(AssertionError, match=said):
            two(run, str(out), RECIPE, resume)
    odd = replace(RECIPE, data=replace(RECIPE.data, batch_size=3))
    with pytest.raises(AssertionError, match="batch_size is 3"):
        two(run, str(tmp_path / "odd"), odd)
