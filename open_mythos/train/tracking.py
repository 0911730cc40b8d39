"""From recipe.log_to to the sinks it names."""

from collections.abc import Callable

from open_mythos.train.recipe import Recipe, Tracker
from open_mythos.train.sinks import Sink
from open_mythos.train.tensorboard import TensorBoardSink
from open_mythos.train.wandb_sink import WandbSink


SINKS: dict[Tracker, Callable[[], Sink]] = {"tensorboard": TensorBoardSink, "wandb": WandbSink}


def tracking_sinks(recipe: Recipe) -> list[Sink]:
    """A sink for each tracker of the recipe; nothing is written before they are opened.

    Raises:
        MissingExtraError: If one needs a package that is not installed.
    """
    return [SINKS[name]() for name in recipe.log_to]
