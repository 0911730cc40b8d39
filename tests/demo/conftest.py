"""The whole demo, seconds long."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from open_mythos.config.mythos import MythosConfig
from open_mythos.demo.plan import Plan, make_plan
from open_mythos.demo.run import DemoResult, run_demo


@pytest.fixture(scope="session")
def tiny_plan() -> Plan:
    """Two steps of each training, the smallest of networks and sweeps."""
    plan = make_plan(5.0, 0)
    recipes = {}
    for name, recipe in plan.recipes.items():
        sizes = {**recipe.model.to_dict(), "dim": 16, "expert_dim": 8}
        recipes[name] = replace(
            recipe,
            model=MythosConfig.from_dict(sizes),
            data=replace(recipe.data, batch_size=2, seq_len=32),
            steps=2,
            eval_every=0,
            save_every=0,
        )
    return replace(
        plan,
        recipes=recipes,
        hops=(1, 2, plan.trained_hops * 2),
        heat_loops=(1, 2),
        text_loops=(1, 2),
        sample_loops=(1, 2),
        sample_tokens=4,
        text_batches=1,
        task_batches=1,
    )


@pytest.fixture(scope="session")
def demo(tiny_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoResult]:
    out = tmp_path_factory.mktemp("demo")
    return out, run_demo(out, tiny_plan, console=Console(quiet=True))
