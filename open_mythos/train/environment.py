"""What a run ran on: what may explain a difference between two runs of one recipe."""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import open_mythos


def environment(device: torch.device, step: int) -> dict[str, Any]:
    """Versions, commit, machine and threads, as plain JSON; `step` is where this start begins."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
        "open_mythos": open_mythos.__version__,
        "git": git_state(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
    }


def git_state() -> dict[str, Any] | None:
    """Commit of the checkout that this package runs from, and whether it was changed since."""

    def ask(*words: str) -> str:
        here = Path(__file__).parent
        command = ["git", "-C", str(here), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        if not ask("ls-files", Path(__file__).name):
            return None  # installed inside somebody else's checkout
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
