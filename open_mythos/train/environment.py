"""What a run ran on: what may explain a difference between two runs of one recipe."""

import hashlib
import importlib.metadata
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import open_mythos


# Packages beside torch and numpy whose version may change what a run computes or reads.
PACKAGES = ("triton", "tokenizers", "safetensors", "transformers", "flash-attn")


def environment(
    device: torch.device, step: int, seed: int | None = None, world: int = 1
) -> dict[str, Any]:
    """Versions, commit, command, machine and threads, as plain JSON.

    Args:
        device: Where it computes.
        step: Where this start begins.
        seed: The recipe's.
        world: Processes that work together.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
        "seed": seed,
        "command": shlex.join(sys.argv),
        "open_mythos": open_mythos.__version__,
        "git": git_state(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "numpy": np.__version__,
        "packages": {name: found for name in PACKAGES if (found := version_of(name))},
        "platform": platform.platform(),
        "device": f"{device} ({name})",
        "world": world,
        "threads": torch.get_num_threads(),
    }


def version_of(package: str) -> str | None:
    """Version of an installed package; None where it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_state() -> dict[str, Any] | None:
    """Commit of the checkout that this package runs from, and a hash of what was changed since.

    "changed" says whether anything was, files that git does not know included; "diff" is the
    SHA-256 of `git diff HEAD`, None where that is empty: two starts with one hash ran one code.
    """

    def ask(*words: str) -> bytes:
        here = Path(__file__).parent
        command = ["git", "-C", str(here), *words]
        return subprocess.run(command, capture_output=True, check=True, timeout=10).stdout

    try:
        if not ask("ls-files", Path(__file__).name):
            return None  # installed inside somebody else's checkout
        diff = ask("diff", "HEAD", "--no-ext-diff", "--binary")
        return {
            "commit": ask("rev-parse", "HEAD").decode().strip(),
            "changed": bool(ask("status", "--porcelain")),
            "diff": hashlib.sha256(diff).hexdigest() if diff else None,
        }
    except (OSError, subprocess.SubprocessError):
        return None
