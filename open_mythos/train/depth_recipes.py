"""Recipes that answer one question each: how far beyond its training does the loop go?"""

from collections.abc import Callable
from dataclasses import replace

from open_mythos.train.networks import small
from open_mythos.train.recipe import (
    CurriculumConfig,
    DataConfig,
    EngineConfig,
    OptimConfig,
    Recipe,
)


def pointer_16() -> Recipe:
    """Pointer chasing over 16 states for a GPU: trained on at most 8 hops, asked for 256.

    The curriculum goes on a hop at 95 %; what follows it, most of the run, is half 8 hops and half
    1 .. 8, and over the last half the rate falls to nothing: what a hop does to a state has to be
    the same to within 1 in 10,000 for 256 of them to be answered. Attention turns by a base of
    10,000, as rows have 64 positions.
    """
    model = replace(
        small(vocab_size=16, dim=256, max_seq_len=64),
        prelude_layers=2,
        core_ffn="dense",
        dense_hidden=512,
        rope_theta=10_000.0,
    )
    return Recipe(
        name="pointer-16",
        model=model,
        data=DataConfig(
            kind="pointer",
            batch_size=256,
            states=16,
            queries=32,
            max_hops=8,
            layout="pairs",
            maps="random",
            task={"split": True},
        ),
        optim=OptimConfig(
            lr=1e-3,
            betas=(0.9, 0.98),
            warmup_steps=200,
            schedule="wsd",
            decay_fraction=0.5,
            final_ratio=0.0,
            decay_embeddings=True,
        ),
        curriculum=CurriculumConfig(threshold=0.95, momentum=0.9, min_steps=20),
        engine=EngineConfig(precision="auto"),
        router_bias_step=0.0,
        steps=8000,
        eval_every=1000,
        eval_loops=(8, 64),
        save_every=1000,
        keep_last=1,
    )


DEPTH_RECIPES: dict[str, Callable[[], Recipe]] = {"pointer-16": pointer_16}
