import mmap
import os
import resource
from pathlib import Path

import pytest
import torch
from torch import nn

from open_mythos.config.budget import training_flops_per_token
from open_mythos.model.mythos import OpenMythos
from open_mythos.train import usage as module
from open_mythos.train.recipe import Recipe
from open_mythos.train.usage import Work, forget_memory, memory_used, usage


CPU = torch.device("cpu")
TOOK = (2.0, 0.5)


def test_rows_of_different_depths_cost_what_each_costs(
    tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "peak_flops", lambda device, precision: 1e6)
    model, depths = OpenMythos(tiny.model), [1, 4, 4, 7]
    work = Work(positions=4 * 6, length=6, depths=depths, backprop_loops=2)
    found = usage(model, work, *TOOK)
    flops = sum(6 * training_flops_per_token(tiny.model, n, 6, 2) for n in depths)
    assert found["flops_per_second"] == pytest.approx(flops / 2.0)
    assert found["mfu"] == pytest.approx(flops / 2.0 / 1e6)
    assert (found["tokens_per_second"], found["seconds"], found["waited"]) == (12.0, 2.0, 0.5)
    monkeypatch.setattr(module, "devices", lambda: 4)
    shared = usage(model, work, *TOOK)
    assert shared["mfu"] == pytest.approx(found["mfu"] / 4)
    assert shared["flops_per_second"] == found["flops_per_second"]


def test_what_is_not_known_is_left_out(tiny: Recipe) -> None:
    work = Work(positions=8, length=4, depths=[2])
    assert usage(OpenMythos(tiny.model), work, *TOOK)["mfu"] is None  # a CPU
    assert "flops_per_second" not in usage(nn.Linear(2, 2), work, *TOOK)  # a foreign network
    assert usage(nn.Identity(), work, *TOOK).keys() == {"tokens_per_second", "seconds", "waited"}


@pytest.mark.skipif(not module.PROCESS_FILE.is_file(), reason="no /proc here")
def test_a_cpu_run_reports_what_the_process_holds() -> None:
    before = memory_used(CPU)
    # Pages of its own: an allocator may answer from memory that the process holds already.
    with mmap.mmap(-1, 64 * 2**20) as held:
        held.write(b"1" * len(held))
        after = memory_used(CPU)
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(64 * 2**20, rel=0.2)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux
    assert after <= most + os.sysconf("SC_PAGE_SIZE") * 256
    forget_memory(CPU)


def test_without_such_a_file_nothing_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROCESS_FILE", tmp_path / "none")
    assert memory_used(CPU) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_run_reports_the_most_since_the_last_look() -> None:
    gpu = torch.device("cuda")
    forget_memory(gpu)
    before = memory_used(gpu)
    held = torch.ones(2**20, device=gpu)
    del held
    after = memory_used(gpu)
    assert before is not None
    assert after is not None
    assert after - before == 4 * 2**20
    forget_memory(gpu)
    assert memory_used(gpu) == before
