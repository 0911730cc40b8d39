"""A setting in which every suite runs in seconds, on one core."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from open_mythos.bench.clock import Clock, Step, Timing
from open_mythos.bench.sizes import size_tiny
from open_mythos.bench.suite import Setting


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of one step: tests here are about what a suite finds, tests of the clock elsewhere."""

    def time(self: Clock, step: Step, **_: Any) -> Timing:
        return self.exactly(step, 1)

    monkeypatch.setattr(Clock, "time", time)


@pytest.fixture
def peer() -> Path | None:
    """The folder of open-mythos 0.5.0, if it is at hand."""
    folder = Path(os.environ.get("OPEN_MYTHOS_PEER") or "nowhere")
    return folder if (folder / "open_mythos" / "main.py").is_file() else None


@pytest.fixture
def setting(attn_type: str, peer: Path | None) -> Setting:
    return Setting(
        device=torch.device("cpu"),
        size=size_tiny(),
        attns=(attn_type,),
        precision="fp32",
        compile=False,
        peer=peer,
    )
