"""What benchmarks/engine.py says of an exit's price, and of who waits, against other ways to it."""

import argparse
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from open_mythos.config.mythos import MythosConfig
from open_mythos.eval.exit_scores import answered
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.exits.registry import EXITS


ROOT = Path(__file__).resolve().parents[2]
LATENT = ("latent:0.25", "latent:0.35", "latent:0.5", "latent:0.7")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield importlib.import_module("engine_depth")
    EXITS.pop("drawn", None)  # other tests calibrate by whatever is registered


@pytest.fixture
def model(tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]) -> OpenMythos:
    cfg = tiny_config(halted="freeze", readout="last", max_loop_iters=5, max_seq_len=64)
    found: OpenMythos = randomised(OpenMythos(cfg)).eval()
    return found


@pytest.fixture
def args() -> argparse.Namespace:
    return argparse.Namespace(
        model="", device="cpu", seed=0, requests=6, rows=4, chunk=16, block_size=4, stride=1,
        gather=0.25, settings={}, repeats=1, warm=True, n_loops=5, deeper=7, everybody=[2],
        exits=[], around=[], prompt_tokens=[4, 8], new_tokens=[4, 8], batches=2,
        save=lambda *_: None,
    )  # fmt: skip


def test_written_tokens_are_compared_place_by_place(script: ModuleType) -> None:
    found = script.alike([[1, 2, 3], [4, 5]], [[1, 9, 3], [4, 5]])
    assert found == {"same_tokens": 4 / 5, "same_before_first": 3 / 5}


def test_rows_say_what_the_model_says_alone(
    script: ModuleType, model: OpenMythos, args: argparse.Namespace
) -> None:
    tokens = np.random.default_rng(0).integers(0, 37, 400)
    load = script.text_load(args, tokens, model.cfg)
    known = {text: answered(model, load.scored, 5, text) for text in LATENT}
    name = max(known, key=lambda text: float(known[text].loops.double().var()))
    args.exits = [name]  # the one of which positions of this network leave most apart
    rows = script.depth(args, model, load)
    full, left = answered(model, load.scored, 5), known[name]
    by = {(row["n_loops"], row["exit"], row["batching"]): row for row in rows}
    one = by[5, name, "depth-wise"]
    assert one["text_loss"] == pytest.approx(float(left.loss.mean()), abs=1e-5)
    assert one["text_mean_loops"] == pytest.approx(float(left.loops.double().mean()))
    cost = float((left.loss - full.loss).mean() / full.loss.mean())
    assert one["text_cost"] == pytest.approx(cost, abs=1e-5)
    assert 1 < one["mean_loops"] < 5
    assert by[5, None, "together"]["mean_loops"] == 5
    assert by[5, None, "together"]["same_tokens"] == 1
    assert by[5, "fixed:2", "together"]["mean_loops"] == 2
    assert by[7, None, "together"]["mean_loops"] == 7
    assert by[5, name, "waits"]["mean_loops"] > one["mean_loops"]
