"""One cell's work: train, map, and leave both in its folder; what is there is not redone."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from open_mythos.checkpoint.files import read_json, write_json
from open_mythos.errors import ConfigError
from open_mythos.eval.loop_curve import DepthMap, depth_map
from open_mythos.model.mythos import OpenMythos
from open_mythos.suite.plan import Cell
from open_mythos.train.checkpoints import RunFolder, Start, read_recipe
from open_mythos.train.records import EvalRecord, StepRecord
from open_mythos.train.sinks import RunInfo, read_metrics
from open_mythos.train.trainer import Status, train


RESULT = "cell.json"


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """A trained cell.

    Attributes:
        map: Accuracy by difficulty and loops.
        steps: Optimizer steps.
        parameters: Of the network.
        level: Where the curriculum stood at the end; 0 without one.
        rho_a: The linear carry's largest factor at the end; None for a design without.
        seconds: Wall time of training and map, of the call that ended both.
    """

    map: DepthMap
    steps: int
    parameters: int
    level: int
    rho_a: float | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "map": self.map.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "CellResult":
        """The result that `to_json` wrote."""
        return cls(**{**values, "map": DepthMap.from_json(values["map"])})


class Steps:
    """A sink that tells how many steps are done."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell

    def open(self, run: RunInfo) -> None:
        """Tell what was done before."""
        self._tell(run.start_step)

    def step(self, record: StepRecord) -> None:
        """One more."""
        self._tell(record.step)

    def evaluation(self, record: EvalRecord) -> None:
        """Not asked for."""

    def note(self, text: str) -> None:
        """Nobody to tell."""

    def close(self) -> None:
        """Nothing to close."""


def run_cell(cell: Cell, out: Path, tell: Callable[[int], None], *, resume: bool = True) -> Status:
    """Train a cell and write its map to cell.json, unless both are there.

    Args:
        cell: What to do.
        out: The suite's folder.
        tell: Called with the number of steps done.
        resume: Go on with what is in the folder, or start over.

    Returns:
        "finished", or what kept the training from its end: then there is no map yet.

    Raises:
        ConfigError: If the folder holds a run of other settings.
    """
    began = time.perf_counter()
    run = RunFolder(out / cell.place)
    if resume:
        refuse_other_run(cell, run)
        if read_result(cell, out) is not None:
            tell(cell.recipe.steps)
            return "finished"
    (run.root / RESULT).unlink(missing_ok=True)
    start: Start = "auto" if resume else "fresh"
    trained = train(cell.recipe, run.root, resume=start, sinks=[Steps(tell)])
    if trained.status != "finished":
        return trained.status
    model = cast("OpenMythos", trained.model)
    last = [m for m in read_metrics(run.metrics_file) if m["kind"] == "step"][-1]
    result = CellResult(
        map=measured(model, cell),
        steps=trained.step,
        parameters=sum(p.numel() for p in model.parameters()),
        level=last["level"],
        rho_a=last["rho_a"],
        seconds=round(time.perf_counter() - began, 1),
    )
    write_json(run.root / RESULT, {"asked": cell.asked, "result": result.to_json()})
    return "finished"


def refuse_other_run(cell: Cell, run: RunFolder) -> None:
    """Refuse to go on with another training: fewer steps, say, have another learning rate.

    Raises:
        ConfigError: Naming the folder.
    """
    if not run.recipe_file.is_file():
        return
    saved = replace(read_recipe(run.root), device=cell.recipe.device)
    if saved != cell.recipe:
        raise ConfigError(
            f"{run.root} holds a run of other settings than {cell.name} has now; give another "
            "--out, or --fresh to start over"
        )


def measured(model: OpenMythos, cell: Cell) -> DepthMap:
    """The map of a model on held-out rows, which are the same for every design and seed."""
    task = cell.recipe.data.build_task(seed=0)
    return depth_map(
        model, task, cell.difficulties, cell.loops, batches=cell.batches, name=cell.problem
    )


def read_result(cell: Cell, out: Path) -> CellResult | None:
    """What a cell's folder holds, if it is the result of exactly this cell."""
    file = out / cell.place / RESULT
    found = read_json(file) if file.is_file() else {}
    return CellResult.from_json(found["result"]) if found.get("asked") == cell.asked else None
