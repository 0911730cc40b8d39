"""Evaluators: what a run is judged by, and how their findings become one record."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from open_mythos.train.records import EvalRecord
from open_mythos.train.state import own_rng


# (model, steps done) -> findings by name: numbers, and texts for people. One with a true attribute
# `one_rank` reads and draws nothing that other ranks have a part in: where the model is whole on
# each rank, the first may run it by itself while the others wait.
Evaluator = Callable[[nn.Module, int], Mapping[str, float | str]]


def judge(
    evaluators: Mapping[str, Evaluator],
    model: nn.Module,
    step: int,
    device: torch.device,
    *,
    only_shared: bool = False,
) -> EvalRecord:
    """Run the evaluators, each with random numbers of its own, and put their findings together.

    Args:
        evaluators: By name.
        model: As it is after `step` steps.
        step: Steps done.
        device: Whose generators are put back.
        only_shared: Leave out those that the first rank may run by itself.
    """
    values: dict[str, float] = {}
    texts: dict[str, str] = {}
    for name, evaluator in evaluators.items():
        if only_shared and getattr(evaluator, "one_rank", False):
            continue
        with own_rng(device):
            found = evaluator(model, step)
        for key, value in found.items():
            if isinstance(value, str):
                texts[f"{name}/{key}"] = value
            else:
                values[f"{name}/{key}"] = float(value)
    return EvalRecord(step=step, values=values, texts=texts)
