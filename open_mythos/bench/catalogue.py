"""Every suite by name, and which of them a size is measured with."""

from collections.abc import Callable, Sequence

from open_mythos.bench.suite import Case, Setting
from open_mythos.bench.suites.accuracy import accuracy
from open_mythos.bench.suites.ceilings import cases as ceilings
from open_mythos.bench.suites.decoding import decode, prefill
from open_mythos.bench.suites.growth import growth
from open_mythos.bench.suites.layers import attention, moe
from open_mythos.bench.suites.profiles import profile
from open_mythos.bench.suites.small import cpu
from open_mythos.bench.suites.training import checkpoint, depth, train
from open_mythos.errors import InputError, did_you_mean


SUITES: dict[str, Callable[[Setting], list[Case]]] = {
    "ceilings": ceilings,
    "train": train,
    "checkpoint": checkpoint,
    "depth": depth,
    "prefill": prefill,
    "decode": decode,
    "moe": moe,
    "attention": attention,
    "growth": growth,
    "accuracy": accuracy,
    "profile": profile,
    "cpu": cpu,
}
# What runs when no suite is named, the most telling first; ceilings come before all of them.
USUAL = {
    "R": ("train", "decode", "prefill", "checkpoint", "moe", "attention", "depth", "accuracy"),
    "1b": ("train", "decode", "prefill"),
    "cpu": ("cpu",),
    "cpu-512": ("train", "decode"),
    "tiny": ("train", "decode", "prefill"),
}


def chosen(names: Sequence[str], size: str) -> list[str]:
    """The suites to run, in order: those named, or those that the size is measured with.

    Raises:
        InputError: If no suite has one of the names.
    """
    for name in names:
        if name not in SUITES:
            raise InputError(f"no suite is called {name!r}; {did_you_mean(name, SUITES)}")
    return list(dict.fromkeys(names or USUAL[size]))
