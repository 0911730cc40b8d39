"""The learning rate as a pure function of the step: linear warm-up, then one of four shapes."""

import math

from open_mythos.train.recipe import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The rate of step `step` (counted from 0) of a run of `steps`.

    The warm-up's first step already learns, its last has the peak; the run's last step has
    final_ratio of the peak, whatever the shape ("constant" aside).
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    return config.lr * shape(config, step, steps)


def shape(config: OptimConfig, step: int, steps: int) -> float:
    """Share of the peak at a step after the warm-up."""
    if config.schedule == "constant":
        return 1.0
    last = steps - 1
    start = config.warmup_steps
    if config.schedule == "wsd":
        start = max(start, last - max(1, round(config.decay_fraction * steps)))
    done = min(max((step - start) / max(last - start, 1), 0.0), 1.0)
    fall = (1.0 - math.cos(math.pi * done)) / 2.0 if config.schedule == "cosine" else done
    return 1.0 - (1.0 - config.final_ratio) * fall
