from dataclasses import replace

import pytest
import torch
from torch import nn

from open_mythos.errors import ConfigError
from open_mythos.model.mythos import OpenMythos
from open_mythos.parallel.degrees import Degrees
from open_mythos.parallel.ranks import Ranks
from open_mythos.train.build import (
    build_model,
    build_state,
    dropout_seed,
    find_device,
    refuse_small_vocabulary,
    spread_out,
)
from open_mythos.train.recipe import EngineConfig, OptimConfig, Recipe
from open_mythos.train.sources import build_sources


def test_one_seed_gives_one_network(tiny: Recipe) -> None:
    source, cpu = build_sources(tiny).train, torch.device("cpu")
    one, two = (build_state(tiny, source, cpu) for _ in range(2))
    other = build_state(replace(tiny, seed=1), source, cpu)
    pairs = zip(one.model.parameters(), two.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.model.embed.weight, other.model.embed.weight)  # type: ignore[union-attr, arg-type]
    assert one.n_parameters == sum(p.numel() for p in OpenMythos(tiny.model).parameters())
    assert isinstance(build_model(tiny), OpenMythos)


def test_what_several_ranks_cannot_do_is_refused_before_they_meet(tiny: Recipe) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(ConfigError, match="Linear is no OpenMythos"):
        spread_out(nn.Linear(2, 2), tiny, cpu)
    turned = replace(tiny, optim=OptimConfig(kind="muon"), parallel=Degrees(tensor=2))
    with pytest.raises(ConfigError, match=r"muon with parallel\.tensor=2.*use adamw"):
        spread_out(OpenMythos(tiny.model), turned, cpu)
    narrow = replace(tiny, engine=EngineConfig(precision="fp16"))
    with pytest.raises(ConfigError, match=r"engine\.precision is fp16.*bf16"):
        spread_out(OpenMythos(tiny.model), narrow, cpu)


def test_ranks_drop_different_channels() -> None:
    seeds = {dropout_seed(seed, rank) for seed in range(4) for rank in range(4)}
    assert len(seeds) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_each_rank_has_its_own_device() -> None:
    assert find_device("cpu", Ranks(1, 2, 1)) == torch.device("cpu")
    with pytest.raises(ConfigError, match="'nowhere' cannot be used here"):
        find_device("nowhere")
    if torch.cuda.is_available():
        assert find_device("auto", Ranks(0, 2, 0)) == torch.device("cuda", 0)


def test_auto_is_no_accelerator_that_torch_was_built_for_and_does_not_find(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A CUDA build of torch on a machine without a GPU: what most installations are."""

    def built_for(check_available: bool = False) -> torch.device | None:
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", built_for)
    assert find_device("auto") == torch.device("cpu")


def test_a_vocabulary_that_is_too_small_is_refused_with_one_that_fits(tiny: Recipe) -> None:
    source = build_sources(replace(tiny, data=replace(tiny.data, kind="text", seq_len=16))).train
    with pytest.raises(ConfigError, match=r"1024 token ids.*is 2; set model.vocab_size=1024"):
        refuse_small_vocabulary(tiny, source)
