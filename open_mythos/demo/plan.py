"""What the demo trains, how deep it looks, and how its minutes are shared out."""

from dataclasses import dataclass, replace

from open_mythos.train.presets import demo_task, demo_task_seed_design, demo_text
from open_mythos.train.recipe import Recipe


TEXT, TASK, SEED_DESIGN = "text", "task", "task-seed-design"
# Shares of the time allowed for each training; the rest is for sweeps and figures.
TIME_SHARES = {TEXT: 0.32, TASK: 0.28, SEED_DESIGN: 0.22}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The demo's runs and measurements.

    Attributes:
        recipes: Folder name -> recipe, in the order in which they run.
        seconds: Folder name -> most seconds of training.
        seed: Of weights, data and samples.
        hops: Difficulties that the task is asked at, with loops to match.
        heat_loops: Loops of the task's heat map; its rows are the hops up to the largest of them.
        text_loops: Loops at which text is scored.
        sample_loops: Loops at which text is written.
        sample_tokens: Tokens of each sample.
        text_batches: Batches of held-out text behind each score.
        task_batches: Batches of held-out questions behind each accuracy.
    """

    recipes: dict[str, Recipe]
    seconds: dict[str, float]
    seed: int = 0
    # On a cycle of 11, hops that differ by 11 share their answer; none of these up to 32 do.
    hops: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 16, 20, 32, 64)
    heat_loops: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 16, 20, 32)
    text_loops: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 32)
    sample_loops: tuple[int, ...] = (1, 2, 4, 8, 16)
    sample_tokens: int = 80
    text_batches: int = 10
    task_batches: int = 2

    @property
    def trained_hops(self) -> int:
        """The hardest task in training."""
        return self.recipes[TASK].data.max_hops

    @property
    def trained_loops(self) -> int:
        """Loops of the text model in training, on average."""
        return round(self.recipes[TEXT].depth.mean)


def make_plan(minutes: float, seed: int) -> Plan:
    """The demo for a number of minutes; fewer cut the training short, more change nothing."""
    recipes = {TEXT: demo_text(), TASK: demo_task(), SEED_DESIGN: demo_task_seed_design()}
    return Plan(
        recipes={name: replace(recipe, seed=seed) for name, recipe in recipes.items()},
        seconds={name: share * minutes * 60.0 for name, share in TIME_SHARES.items()},
        seed=seed,
    )
