from pathlib import Path

import pytest
import torch

from open_mythos.checkpoint.store import load_model
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.tokenizer import tokenizer_from_folder
from open_mythos.errors import CheckpointError, DamagedError
from open_mythos.parallel.ranks import ALONE
from open_mythos.train.build import build_state
from open_mythos.train.recipe import Recipe
from open_mythos.train.saved import (
    checked_counters,
    common_rng,
    load_checkpoint,
    own_rng,
    save_shards,
    sharded,
    write_state,
)
from open_mythos.train.sources import build_sources
from open_mythos.train.state import TrainState
from open_mythos.train.step import train_step


def begun(recipe: Recipe, steps: int) -> TrainState:
    source = build_sources(recipe).train
    state = build_state(recipe, source, torch.device("cpu"))
    for _ in range(steps):
        train_step(state, source, recipe)
    return state


def assert_same(one: TrainState, two: TrainState) -> None:
    assert one.counters() == two.counters()
    for a, b in ((one.tensors(), two.tensors()), (one.model.state_dict(), two.model.state_dict())):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_shards_and_whole_files_hold_the_same_state(tmp_path: Path, tiny: Recipe) -> None:
    """Dropout is on: the generators are part of it."""
    state = begun(tiny, 3)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    write_state(whole, state, tiny, ByteTokenizer())
    assert save_shards(parts, state, tiny, ByteTokenizer(), ALONE).wait() == parts
    assert (sharded(whole), sharded(parts)) == (False, True)
    saved = {k: v.clone() for k, v in state.model.state_dict().items()}
    for folder in (whole, parts):
        config, weights = load_model(folder)
        assert config == tiny.model
        assert all(torch.equal(weights[name], saved[name]) for name in weights)
        assert tokenizer_from_folder(folder).decode([104, 105]) == "hi"
        assert checked_counters(folder)["step"] == 3
    torch.manual_seed(0)
    write_state(whole, state, tiny)  # the generators that were seeded just now
    save_shards(tmp_path / "again", state, tiny, None, ALONE).wait()
    found = []
    for folder in (whole, tmp_path / "again"):
        other = begun(tiny, 1)
        load_checkpoint(folder, other)
        found.append((other, torch.rand(3)))
        torch.manual_seed(0)
        assert torch.equal(found[-1][1], torch.rand(3))
    assert found[0][0].counters() == found[1][0].counters() == state.counters()
    for name, tensor in found[0][0].tensors().items():
        if not name.startswith("rng/"):
            assert torch.equal(tensor, state.tensors()[name])
            assert torch.equal(tensor, found[1][0].tensors()[name])


def test_a_damaged_shard_is_damage_and_another_network_is_not(tmp_path: Path, tiny: Recipe) -> None:
    state = begun(tiny, 1)
    folder = save_shards(tmp_path / "parts", state, tiny, None, ALONE).wait()
    from dataclasses import replace

    wider = begun(replace(tiny, model=replace(tiny.model, dim=24, dense_hidden=16)), 0)
    with pytest.raises(CheckpointError, match="belongs to another model"):
        load_checkpoint(folder, wider)
    (shard,) = folder.glob("shard_*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DamagedError, match="truncated or damaged"):
        load_checkpoint(folder, state)


def test_generators_go_by_ranks() -> None:
    a, b = torch.zeros(1), torch.ones(1)
    assert own_rng({"rng/cpu": a, "exp_avg/x": b}, 3) == {"rng/3/cpu": a, "exp_avg/x": b}
    saved = {"rng/0/cpu": a, "rng/1/cpu": b, "rng/1/cuda": a, "exp_avg/x": b}
    assert common_rng(saved, 1) == {"rng/cpu": b, "rng/cuda": a, "exp_avg/x": b}
    assert common_rng(saved, 2) == {"exp_avg/x": b}
    assert common_rng({"rng/cpu": a}, 0) == {"rng/cpu": a}
    assert common_rng({"rng/cpu": a}, 1) == {}
