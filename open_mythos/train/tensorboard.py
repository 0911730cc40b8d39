"""TensorBoardSink: a run's curves, recipe, evaluations and samples for TensorBoard."""

import importlib
from collections.abc import Mapping
from typing import Any

from open_mythos.config.overrides import to_yaml
from open_mythos.errors import MissingExtraError
from open_mythos.train.records import EvalRecord, StepRecord
from open_mythos.train.scalars import eval_scalars, step_scalars
from open_mythos.train.sinks import RunInfo, logged, thinned


FOLDER = "tensorboard"
# Charts that show several curves in one, beside each other under "Custom Scalars".
CHARTS = {
    "depth": {
        "loss by loops": ["Multiline", [r"eval/.*/loss(_at_\d+)?$"]],
        "accuracy by loops": ["Multiline", [r"eval/.*/accuracy(_at_\d+)?$"]],
    },
    "experts": {
        "evenness by loop": ["Multiline", [r"router_entropy/loop_\d+"]],
        "busiest over mean by loop": ["Multiline", [r"router_peak/loop_\d+"]],
    },
}


class TensorBoardSink:
    """Writes event files into the run's folder, at most 10,000 steps of them."""

    def __init__(self) -> None:
        """Find the writer, before anything is trained.

        Raises:
            MissingExtraError: If tensorboard is not installed.
        """
        try:
            found = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise MissingExtraError("tensorboard", "tb", "log_to=tensorboard") from error
        self._writer_type: Any = found.SummaryWriter
        self._writer: Any = None
        self._run: RunInfo | None = None

    def open(self, run: RunInfo) -> None:
        """Go on behind the step that is resumed: readers drop what an earlier start wrote later."""
        self._run = run
        # A start from step 0 drops what was written at step 0 too: the recipe, which comes again.
        purge = run.start_step + 1 if run.start_step else 0
        self._writer = self._writer_type(run.folder / FOLDER, purge_step=purge)
        self._writer.add_custom_scalars(CHARTS)
        about = f"{run.n_parameters / 1e6:.2f}M parameters on {run.device}, from step"
        self._text(
            {
                "run/recipe": to_yaml(run.recipe),
                "run/about": f"{about} {run.start_step}, in {run.folder}",
            },
            run.start_step,
        )

    def step(self, record: StepRecord) -> None:
        """The step's numbers, unless the run is so long that not every step is shown."""
        assert self._run is not None, "open the sink first"
        recipe = self._run.recipe
        if thinned(record.step, recipe.steps):
            by_loop = logged(record.step, recipe)
            self._scalars(step_scalars(record, by_loop=by_loop), record.step)

    def evaluation(self, record: EvalRecord) -> None:
        """Numbers and samples; on disk at once, for whoever is watching."""
        self._scalars(eval_scalars(record), record.step)
        self._text(record.texts, record.step)
        self._writer.flush()

    def note(self, text: str) -> None:
        """Nothing: notes have no step."""

    def close(self) -> None:
        """Write what is left; closing twice is harmless."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def _text(self, texts: Mapping[str, str], step: int) -> None:
        for tag, text in texts.items():
            # Markdown's form of text that is to be shown as it is.
            shown = "\n".join(f"    {line}" for line in text.splitlines())
            self._writer.add_text(tag, shown, step)
