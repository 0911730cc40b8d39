"""What a results file says of the machine, the versions and the command."""

import os
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from open_mythos.train.environment import environment


# Where the benchmark runs on a copy without its .git, this variable tells the commit.
COMMIT = "OPEN_MYTHOS_COMMIT"


def about(device: torch.device, words: Sequence[str], peer: Path | None) -> dict[str, Any]:
    """The entry of a run: environment, device, packages, peer, command; names no folder.

    Args:
        device: Where it runs.
        words: The command's arguments.
        peer: Folder of the unpacked open-mythos 0.5.0.
    """
    of_training = ("step", "seed", "world")
    found = {k: v for k, v in environment(device, 0).items() if k not in of_training}
    given = os.environ.get(COMMIT)
    if found["git"] is None and given:
        found["git"] = {"commit": given, "changed": None}
    cuda = device.type == "cuda"
    return {
        **found,
        "device_name": torch.cuda.get_device_name(device) if cuda else processor(),
        "peer": None if peer is None else peer_version(peer),
        "command": shlex.join(["open-mythos", "bench", *words]),
    }


def peer_version(folder: Path) -> str | None:
    """The version of the open-mythos wheel that was unpacked there."""
    for found in folder.glob("open_mythos-*.dist-info"):
        return found.name.removeprefix("open_mythos-").removesuffix(".dist-info")
    return None


def processor() -> str:
    """The CPU's name, or at least its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.machine()
