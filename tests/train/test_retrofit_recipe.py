"""Healing begins at the source's own depth and ends around the network's."""

import pytest

from open_mythos.train.depth import distribution, expected_depth
from open_mythos.train.retrofit_recipe import LOOPED, LOOPS, retrofit


def test_depth_grows_from_one_loop_and_never_loses_it() -> None:
    recipe = retrofit()
    assert distribution(recipe.depth, 0)[1] == pytest.approx(1.0)
    means = [expected_depth(recipe.depth, step) for step in range(0, recipe.steps, 100)]
    assert means == sorted(means)
    assert means[-1] == pytest.approx(LOOPS)
    assert distribution(recipe.depth)[1] > 0.02


def test_it_starts_from_where_the_command_writes() -> None:
    from typer.testing import CliRunner

    from open_mythos.cli.main import app

    assert retrofit().init_from == LOOPED
    said = CliRunner().invoke(app, ["retrofit", "--help"], env={"COLUMNS": "200"}).output
    assert f"[default: {LOOPED}]" in said
