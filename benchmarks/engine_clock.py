"""What the parts of engine.py share: requests, sizes of the engine, and time."""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from open_mythos.engine.request import Request
from open_mythos.engine.settings import EngineConfig
from open_mythos.generate.params import SamplingParams


def in_turns(
    args: argparse.Namespace, works: Sequence[Callable[[], Any]]
) -> list[tuple[float, Any]]:
    """Seconds of the best run of each, and what it gave; in turns, since machines drift."""
    found: list[tuple[float, Any]] = [(math.inf, None)] * len(works)
    for _ in range(args.repeats):
        for i, work in enumerate(works):
            synchronise(args)
            start = time.perf_counter()
            said = work()
            synchronise(args)
            seconds = time.perf_counter() - start
            if seconds < found[i][0]:
                found[i] = seconds, said
    return found


def synchronise(args: argparse.Namespace) -> None:
    """Wait for the device."""
    if args.device == "cuda":
        torch.cuda.synchronize()


def sizes(args: argparse.Namespace, longest: int, rows: int, **changes: Any) -> EngineConfig:
    """An engine whose cache holds `rows` requests of `longest` tokens."""
    blocks = rows * -(-longest // args.block_size) + rows
    base = EngineConfig(
        blocks=blocks, block_size=args.block_size, rows=rows, chunk=args.chunk,
        stride=args.stride,
    )  # fmt: skip
    return replace(base, **{**changes, **args.settings})


def greedy(
    prompt: Sequence[int], new: int, n_loops: int | None = None, exit: str | None = None
) -> Request:
    """A request whose tokens are the likeliest, so many of them."""
    params = SamplingParams(temperature=0.0, max_tokens=new, ignore_eos=True)
    return Request(prompt, params, n_loops, exit)
