"""What the demo trains, how deep it looks, and how its minutes are shared out."""

from dataclasses import dataclass, replace

from open_mythos.train.presets import demo_task, demo_task_seed_design, demo_text
from open_mythos.train.recipe import Recipe


# Shares of the time allowed for each part; the rest is for sweeps and figures.
TIME_SHARES = {"text": 0.28, "task": 0.28, "task-seed-design": 0.24}
TEXT_LOOPS = (1, 2, 3, 4, 6, 8, 12, 16, 32)
SAMPLE_LOOPS = (1, 2, 4, 8, 16)
SAMPLE_TOKENS = 80
PROMPT = "HAMLET:\n"


@dataclass(frozen=True)
class Plan:
    """The demo's runs and measurements.

    Attributes:
        recipes: Folder name -> recipe, in the order in which they run.
        seconds: Folder name -> most seconds of training.
    """

    recipes: dict[str, Recipe]
    seconds: dict[str, float]

    @property
    def hops(self) -> tuple[int, ...]:
        """Difficulties that the task is asked at: doubling from one to eight times the trained."""
        most = self.recipes["task"].data.max_hops
        return tuple(sorted({1, 2, 3, most, 2 * most, 3 * most, 4 * most, 8 * most}))


def make_plan(minutes: float, seed: int) -> Plan:
    """The demo for a number of minutes; fewer cut the training short, more change nothing."""
    recipes = {
        "text": demo_text(),
        "task": demo_task(),
        "task-seed-design": demo_task_seed_design(),
    }
    return Plan(
        recipes={name: replace(recipe, seed=seed) for name, recipe in recipes.items()},
        seconds={name: share * minutes * 60.0 for name, share in TIME_SHARES.items()},
    )
