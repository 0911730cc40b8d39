from dataclasses import replace
from pathlib import Path

import pytest
import torch

from open_mythos.errors import ConfigError
from open_mythos.eval.loop_curve import DepthMap, depth_map
from open_mythos.model.mythos import OpenMythos
from open_mythos.suite.cell import RESULT, CellResult, measured, read_result, run_cell
from open_mythos.suite.plan import Cell, Plan
from open_mythos.train.checkpoints import newest_checkpoint


@pytest.fixture
def one(plan: Plan) -> Cell:
    return plan.cells[0]


def test_a_cell_is_trained_and_its_map_is_that_of_the_saved_weights(one: Cell, out: Path) -> None:
    told: list[int] = []
    assert run_cell(one, out, told.append) == "finished"
    assert told == [0, 1, 2]
    found = read_result(one, out)
    assert found is not None
    model = OpenMythos.from_pretrained(newest_checkpoint(out / one.place))
    task = one.recipe.data.build_task(seed=99)
    again = depth_map(model, task, (1, 2, 4), (1, 2, 4), batches=1, name="free")
    assert found.map == again
    assert found.steps == 2
    assert found.parameters == sum(p.numel() for p in model.parameters())


def test_what_is_there_is_not_done_again_what_is_asked_anew_is(one: Cell, out: Path) -> None:
    run_cell(one, out, lambda _: None)
    file = out / one.place / RESULT
    before = file.read_bytes()
    metrics = (out / one.place / "metrics.jsonl").read_bytes()
    told: list[int] = []
    assert run_cell(one, out, told.append) == "finished"
    assert told == [2]
    assert file.read_bytes() == before

    deeper = replace(one, loops=(1, 2, 4, 8))
    assert read_result(deeper, out) is None
    assert run_cell(deeper, out, lambda _: None) == "finished"
    assert (out / one.place / "metrics.jsonl").read_bytes() == metrics  # no step was taken
    found = read_result(deeper, out)
    assert found is not None
    assert found.map.loops == (1, 2, 4, 8)


def test_other_settings_are_refused_and_a_fresh_start_takes_them(one: Cell, out: Path) -> None:
    run_cell(one, out, lambda _: None)
    longer = replace(one, recipe=replace(one.recipe, steps=3))
    with pytest.raises(ConfigError, match="other settings than free mythos seed 0"):
        run_cell(longer, out, lambda _: None)
    told: list[int] = []
    assert run_cell(longer, out, told.append, resume=False) == "finished"
    assert told == [0, 1, 2, 3]
    assert read_result(one, out) is None


def test_a_training_that_diverges_leaves_no_map(
    one: Cell, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(
        one, recipe=replace(one.recipe, optim=replace(one.recipe.optim, max_skipped=1))
    )
    monkeypatch.setattr(
        "open_mythos.train.build.OpenMythos",
        lambda config: _poisoned(OpenMythos(config)),
    )
    assert run_cell(broken, out, lambda _: None) == "diverged"
    assert read_result(broken, out) is None


def _poisoned(model: OpenMythos) -> OpenMythos:
    torch.nn.init.constant_(model.embed.weight, float("nan"))
    return model


def test_rows_that_are_asked_are_the_same_for_every_seed_and_design(plan: Plan) -> None:
    """One model, asked as four cells: the same map."""
    model = OpenMythos(plan.cells[0].recipe.model)
    found = [measured(model, one) for one in plan.of("free")]
    assert len(found) == 4
    assert all(one == found[0] for one in found)


def test_a_result_survives_json() -> None:
    found = CellResult(
        map=DepthMap("x", (1, 2), (1,), ((0.5,), (0.25,)), 8),
        steps=3,
        parameters=12,
        level=1,
        rho_a=None,
        seconds=0.5,
    )
    assert CellResult.from_json(found.to_json()) == found
