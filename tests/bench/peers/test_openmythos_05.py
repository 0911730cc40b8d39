"""0.5.0 itself where it is at hand, and a clear word where it is not."""

import os
from pathlib import Path

import pytest
import torch

from open_mythos.bench.peers.openmythos_05 import OpenMythos05, load_module
from open_mythos.bench.sizes import size_tiny
from open_mythos.config.budget import parameters
from open_mythos.errors import InputError


CPU = torch.device("cpu")
FOLDER = Path(os.environ.get("OPEN_MYTHOS_PEER") or "nowhere")
LIVE = pytest.mark.skipif(
    not (FOLDER / "open_mythos" / "main.py").is_file(), reason="OPEN_MYTHOS_PEER names no 0.5.0"
)


def test_a_folder_without_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unpacked"):
        load_module(tmp_path)


@LIVE
@pytest.mark.parametrize("what", ["train", "prefill", "decode"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_its_work_runs(attn_type: str, what: str, precision: str) -> None:
    peer = OpenMythos05(FOLDER, size_tiny().config(attn_type), CPU, precision)  # type: ignore[arg-type]
    work = getattr(peer, what)(2, 8)
    work.step()
    work.step()
    assert work.tokens == (2 if what == "decode" else 16)


@LIVE
def test_its_network_is_the_one_that_is_counted(attn_type: str) -> None:
    peer = OpenMythos05(FOLDER, size_tiny().config(attn_type), CPU, "fp32")
    built = sum(p.numel() for p in peer._built().parameters())
    assert built == pytest.approx(parameters(peer.cfg).total, rel=0.02)


@LIVE
def test_all_its_loops_run() -> None:
    peer = OpenMythos05(FOLDER, size_tiny().config("gqa", max_loop_iters=6), CPU, "fp32")
    model = peer._built().eval()
    calls: list[int] = []
    model.recurrent.block.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(torch.randint(0, 64, (1, 5)), n_loops=6)
    assert len(calls) == 6
