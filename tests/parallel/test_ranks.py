import os
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from open_mythos.errors import ConfigError
from open_mythos.parallel.ranks import Ranks, from_environment, joined


def test_without_torchrun_there_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as ranks:
        assert ranks == Ranks(0, 1, 0)
        assert ranks.first
        assert ranks.any(True)
        assert not ranks.any(False)
        assert ranks.told("word") == "word"
        ranks.wait()
        assert not torch.distributed.is_initialized()


def test_the_place_is_read_from_the_environment() -> None:
    assert from_environment({}) == Ranks()
    assert from_environment({"RANK": "3"}) == Ranks()
    full = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert from_environment(full) == Ranks(5, 8, 1)
    for broken in ({"WORLD_SIZE": "2"}, {**full, "RANK": "first"}):
        with pytest.raises(ConfigError, match="torchrun"):
            from_environment(broken)


def _agree(rank: int, port: int, said: Any) -> None:
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_RANK=str(rank),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    with joined("cpu") as ranks:
        heard = [ranks.any(rank == 1), ranks.any(False), ranks.told({"from": rank})]
        with joined("cpu") as again:  # a group that is open already is used, and left open
            heard.append(replace(again, writers=None) == replace(ranks, writers=None))
        ranks.wait()
        said[rank] = (replace(ranks, writers=None), heard)  # a group cannot be sent
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_two_ranks_decide_alike(free_port: int) -> None:
    with mp.Manager() as manager:
        said = manager.dict()
        mp.spawn(_agree, args=(free_port, said), nprocs=2)
        for rank in range(2):
            ranks, heard = said[rank]
            assert ranks == Ranks(rank, 2, rank)
            assert heard == [True, False, {"from": 0}, True]
