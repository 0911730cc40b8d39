"""The demo's pictures, by the names under which the report shows them."""

from collections.abc import Mapping

from open_mythos.demo.measure import TaskResult, TextResult
from open_mythos.demo.plan import SEED_DESIGN, TASK, TEXT, Plan
from open_mythos.demo.story import OURS, SEED
from open_mythos.report.figures import (
    Figure,
    Metrics,
    curve_figure,
    depth_figure,
    experts_figure,
    halting_figure,
    marks_figure,
    radius_figure,
    training_figure,
)


def figures(
    text: TextResult,
    tasks: Mapping[str, TaskResult],
    runs: Mapping[str, Metrics],
    plan: Plan,
) -> dict[str, Figure]:
    """Every picture of the report, by name."""
    most = plan.trained_hops
    ours, seed = tasks[TASK], tasks[SEED_DESIGN]
    chase = {OURS: runs[TASK], SEED: runs[SEED_DESIGN]}
    return {
        "task-depth": marks_figure(
            {
                OURS: ours.deeper,
                f"{OURS}, stopped at {most} loops": ours.stopped,
                SEED: seed.deeper,
            },
            most,
            "hops (and loops)",
            "accuracy",
            ours.chance,
        ),
        "task-heat": depth_figure(ours.heat),
        "task-heat-seed-design": depth_figure(seed.heat),
        **_halting(seed),
        "task-accuracy": training_figure(chase, "accuracy", "accuracy"),
        "task-level": training_figure(chase, "level", "hardest hops so far"),
        "text-loss": training_figure({TEXT: runs[TEXT]}, "loss", "loss (nats per token)"),
        "text-loops": curve_figure(text.curve, plan.recipes[TEXT].depth.max),
        "text-experts": experts_figure(text.use),
        "rho": radius_figure({**chase, TEXT: runs[TEXT]}),
    }


def _halting(result: TaskResult) -> dict[str, Figure]:
    if result.halting is None:
        return {}
    return {"task-halting": halting_figure(result.halting.spent, result.halting.labels)}
