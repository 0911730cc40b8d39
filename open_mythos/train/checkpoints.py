"""RunFolder: what a run leaves on disk, how it is found again, and what is kept."""

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from open_mythos.checkpoint.files import (
    atomic_folder,
    check_folder,
    read_json,
    remove_temporaries,
    write_json,
    write_text,
)
from open_mythos.config.overrides import from_plain, read_yaml, to_plain, to_yaml
from open_mythos.data.tokenizer import Tokenizer
from open_mythos.errors import CheckpointError, ConfigError, DamagedError, did_you_mean
from open_mythos.parallel.ranks import ALONE, Ranks
from open_mythos.train import tensorboard, wandb_sink
from open_mythos.train.environment import environment
from open_mythos.train.recipe import Recipe
from open_mythos.train.saved import load_checkpoint, write_state
from open_mythos.train.state import TrainState


Start = Literal["new", "resume", "auto", "fresh"]
STARTS: tuple[Start, ...] = ("new", "resume", "auto", "fresh")

STEP_FOLDER = re.compile(r"step_(\d{7,})")
DAMAGED = ".damaged"
# Settings that a resumed run may change: none of them alters the steps already taken, and what
# divides the work alters those to come by rounding alone.
CHANGEABLE = (
    "name",
    "steps",
    "eval_every",
    "eval_loops",
    "eval_tokens",
    "eval_samples",
    "eval_prompts",
    "save_every",
    "keep_last",
    "best_by",
    "log_every",
    "log_to",
    "device",
    "engine.async_save",
    "engine.micro_batch",
    "parallel.data",
    "parallel.shard",
    "parallel.expert",
    "parallel.tensor",
)


@dataclass(frozen=True, kw_only=True)
class Best:
    """The checkpoint that evaluation liked best.

    Attributes:
        checkpoint: Its folder, from the run's.
        by: The evaluation number.
        value: Its mean over evaluators there.
    """

    checkpoint: str
    by: str
    value: float


class RunFolder:
    """The folder of one run, which one process at a time writes.

    recipe.yaml, env.json, metrics.jsonl, checkpoints/step_0000100/{model.safetensors, config.json,
    optimizer.safetensors, state.json, manifest.json}, `latest`, the newest step's path in it,
    `best.json`, the best step's, samples/step_0000100.txt, and what trackers add (docs/runs.md).

    Attributes:
        root: The folder itself.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe."""
        return self.root / "recipe.yaml"

    @property
    def env_file(self) -> Path:
        """What the run ran on, once per start."""
        return self.root / "env.json"

    @property
    def metrics_file(self) -> Path:
        """Every record."""
        return self.root / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """What the model wrote at each evaluation."""
        return self.root / "samples"

    @property
    def checkpoints(self) -> Path:
        """The parent of the step folders."""
        return self.root / "checkpoints"

    @property
    def latest_file(self) -> Path:
        """Names the newest checkpoint, for people and scripts."""
        return self.root / "latest"

    @property
    def best_file(self) -> Path:
        """Names the best checkpoint, and its number."""
        return self.root / "best.json"

    def best(self) -> Best | None:
        """The best checkpoint so far; None before the first evaluation, or if it is gone."""
        if not self.best_file.is_file():
            return None
        found = Best(**read_json(self.best_file))
        return found if (self.root / found.checkpoint).is_dir() else None

    def note_best(self, checkpoint: Path, by: str, value: float) -> None:
        """Remember a checkpoint as the best one, which pruning leaves alone."""
        place = checkpoint.relative_to(self.root).as_posix()
        write_json(self.best_file, asdict(Best(checkpoint=place, by=by, value=value)))

    def steps(self) -> dict[int, Path]:
        """Every checkpoint by its step, oldest first; damaged ones that were set aside are not."""
        if not self.checkpoints.is_dir():
            return {}
        matches = [(STEP_FOLDER.fullmatch(p.name), p) for p in self.checkpoints.iterdir()]
        return dict(sorted((int(m[1]), p) for m, p in matches if m and p.is_dir()))

    def damaged(self) -> list[Path]:
        """The checkpoints that were set aside."""
        return sorted(self.checkpoints.glob(f"step_*{DAMAGED}*"))

    def holds_run(self) -> bool:
        """Whether an earlier run left anything here that a new one would overwrite."""
        files = (self.recipe_file, self.metrics_file)
        return any(f.is_file() for f in files) or bool(self.steps() or self.damaged())

    def evaluated(self, step: int) -> bool:
        """Whether metrics.jsonl, whole up to the last line, has an evaluation after this step."""
        lines = self.metrics_file.read_text(encoding="utf-8").splitlines()
        records = (json.loads(line) for line in reversed(lines))
        return any(r.get("kind") == "eval" and r["step"] == step for r in records)

    # -- beginning -------------------------------------------------------------------------------

    def begin(self, start: Start, recipe: Recipe) -> bool:
        """Make the folder ready; True when an earlier run is to be gone on with.

        Args:
            start: "new" refuses a folder with a run in it, "resume" one without, "auto" takes
                either, "fresh" deletes the run that is there (and nothing else in the folder).
            recipe: Saved; when resuming, compared to the saved one first.

        Raises:
            ConfigError: On an unknown start, or a recipe that differs from the saved one in more
                than what may change.
            CheckpointError: If a run is there and was not asked for, or is not and was.
        """
        if start not in STARTS:
            raise ConfigError(f"resume is {start!r}; {did_you_mean(str(start), STARTS)}")
        exists = self.holds_run()
        if exists and start == "new":
            raise CheckpointError(
                f"{self.root} already holds a run; go on with it (--resume auto), start over in "
                "its place (--fresh), or give another folder"
            )
        if not exists and start == "resume":
            raise CheckpointError(f"{self.root} holds no run to resume; leave --resume only away")
        if exists and start == "fresh":
            self.clear()
            exists = False
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        remove_temporaries(self.checkpoints)
        if exists and self.recipe_file.is_file():
            refuse_changes(self.recipe_file, recipe)
        write_text(self.recipe_file, to_yaml(recipe))
        return exists

    def clear(self) -> None:
        """Delete the run's own files, and no others."""
        files = (self.metrics_file, self.env_file, self.latest_file, self.best_file)
        for file in (*files, self.recipe_file, self.root / wandb_sink.ID_FILE):
            file.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.samples, self.root / tensorboard.FOLDER):
            if folder.is_dir():
                shutil.rmtree(folder)

    def note_environment(
        self, device: torch.device, step: int, seed: int | None = None, world: int = 1
    ) -> None:
        """Add to env.json what this start runs on: bits may differ between two of them."""
        starts = read_json(self.env_file)["starts"] if self.env_file.is_file() else []
        write_json(self.env_file, {"starts": [*starts, environment(device, step, seed, world)]})

    # -- saving and loading ----------------------------------------------------------------------

    def save(self, state: TrainState, recipe: Recipe, tokenizer: Tokenizer | None = None) -> Path:
        """Write the state of one process as a checkpoint, whole or not at all; drop the oldest."""
        target = self.place(state.step)
        with atomic_folder(target) as fresh:
            write_state(fresh, state, recipe, tokenizer)
        self.admit(target, recipe.keep_last)
        return target

    def place(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.checkpoints / f"step_{step:07d}"

    def admit(self, checkpoint: Path, keep_last: int) -> None:
        """Make a checkpoint that is whole the newest one; then drop the oldest."""
        self._point_at(checkpoint)
        self.prune(keep_last)

    def prune(self, keep_last: int) -> None:
        """Delete all but the newest checkpoints and the best one; 0 deletes none."""
        best = self.best()
        kept = None if best is None else self.root / best.checkpoint
        for path in list(self.steps().values())[:-keep_last] if keep_last else []:
            if path != kept:
                shutil.rmtree(path)

    def restore(
        self, state: TrainState, note: Callable[[str], None], ranks: Ranks = ALONE
    ) -> Path | None:
        """Load the newest checkpoint that is whole; None if the run was ended before its first.

        Damaged ones are reported through `note` and renamed, so that they stay to be looked at but
        count no more: only once an older one is loaded, so that a run without any stays as it is.
        The first rank looks and renames; all of them load what it found.

        Raises:
            CheckpointError: If every checkpoint is damaged, set aside or gone, or the newest whole
                one does not fit: written by a newer library, or of another recipe.
        """
        damaged: dict[Path, DamagedError] = {}
        for folder in ranks.first_does(lambda: [*reversed(self.steps().values())]):
            try:
                load_checkpoint(folder, state, ranks)
            except DamagedError as error:
                damaged[folder] = error
                continue
            for text in ranks.first_does(lambda: self._retire(damaged, folder)):  # noqa: B023
                note(text)
            return folder
        ranks.first_does(lambda: self._refuse_loss(len(damaged)))
        if self.metrics_file.is_file() and self.metrics_file.stat().st_size:
            note("the run had ended before its first checkpoint; it starts again at step 0")
        return None

    def _retire(self, damaged: Mapping[Path, DamagedError], newest: Path) -> list[str]:
        notes = [
            f"checkpoint damaged, kept as {set_aside(path).name}: {reason}"
            for path, reason in damaged.items()
        ]
        if damaged:
            self._point_at(newest)
        return notes

    def _refuse_loss(self, damaged: int) -> None:
        lost = damaged + len(self.damaged())
        if lost:
            raise CheckpointError(
                f"none of the {lost} checkpoints in {self.checkpoints} can be read; put a whole "
                "one there, or start over with --fresh"
            )
        if self.latest_file.is_file():
            raise CheckpointError(
                f"{self.latest_file} names a checkpoint, but {self.checkpoints} holds none; put it "
                "back, or start over with --fresh"
            )

    def _point_at(self, folder: Path) -> None:
        write_text(self.latest_file, folder.relative_to(self.root).as_posix() + "\n")


def newest_checkpoint(run: str | Path) -> Path:
    """The newest whole checkpoint of a run folder, for those who only read it.

    Raises:
        CheckpointError: If the folder holds none.
    """
    folder = RunFolder(run)
    for path in reversed(folder.steps().values()):
        try:
            check_folder(path)
        except CheckpointError:
            continue
        return path
    raise CheckpointError(f"{folder.root} holds no whole checkpoint; has the run saved one yet?")


def read_recipe(run: str | Path) -> Recipe:
    """The recipe that a run folder was made with.

    Raises:
        ConfigError: If recipe.yaml is missing or is no recipe of this version.
    """
    return from_plain(Recipe, read_yaml(RunFolder(run).recipe_file))


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint out of the way; a second one of the same step gets a number."""
    aside, count = folder.with_name(folder.name + DAMAGED), 1
    while aside.exists():
        count += 1
        aside = folder.with_name(f"{folder.name}{DAMAGED}-{count}")
    return folder.rename(aside)


def judged(values: Mapping[str, float], by: str) -> float | None:
    """Mean of the evaluation numbers called `by`; None where there is none, or it is not finite."""
    found = [value for name, value in values.items() if name.rpartition("/")[2] == by]
    mean = sum(found) / len(found) if found else math.nan
    return mean if math.isfinite(mean) else None


def better(value: float, than: Best | None, by: str) -> bool:
    """Whether a number beats the best so far: less for "loss", more for any other."""
    if than is None or than.by != by:
        return True
    return value < than.value if by == "loss" else value > than.value


# -- recipes -------------------------------------------------------------------------------------


def refuse_changes(file: Path, recipe: Recipe) -> None:
    """Refuse to go on with a run under another recipe.

    Raises:
        ConfigError: Naming each setting that differs, with both values.
    """
    # A setting that the file does not know yet had its default's meaning.
    before = flatten(to_plain(from_plain(Recipe, read_yaml(file))))
    now = flatten(to_plain(recipe))
    changed = [
        f"{key} (was {before.get(key)!r}, is {now.get(key)!r})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in CHANGEABLE
    ]
    if changed:
        raise ConfigError(
            f"{file} differs from the recipe in {', '.join(changed)}; resume with the saved "
            "values, start over with --fresh, or give another folder"
        )


def flatten(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{path}{key}."))
        else:
            flat[f"{path}{key}"] = value
    return flat
