"""Named runs, as functions that return a Recipe; to make another, replace what differs."""

from collections.abc import Callable
from dataclasses import replace

from open_mythos.config.mythos import SEED_LTI_DECAY, MythosConfig
from open_mythos.errors import ConfigError, did_you_mean
from open_mythos.train.recipe import (
    CurriculumConfig,
    DataConfig,
    DepthConfig,
    OptimConfig,
    Recipe,
)


def cpu_tiny() -> Recipe:
    """The smallest run worth watching: the bundled plays, half a minute on one core."""
    return Recipe(
        name="cpu-tiny",
        model=small(vocab_size=1024, dim=64, max_seq_len=256),
        data=DataConfig(kind="text", batch_size=8, seq_len=64),
        depth=DepthConfig(kind="poisson", mean=3, min=1, max=6),
        optim=OptimConfig(lr=3e-3, warmup_steps=20),
        steps=200,
        eval_every=100,
        save_every=100,
    )


def demo_text() -> Recipe:
    """The demo's reader: the bundled plays, loops drawn around 4 each step."""
    return Recipe(
        name="demo-text",
        model=small(vocab_size=1024, dim=128, max_seq_len=512),
        data=DataConfig(kind="text", batch_size=16, seq_len=128),
        depth=DepthConfig(kind="poisson", mean=4, min=1, max=8),
        optim=OptimConfig(lr=2e-3, warmup_steps=40),
        steps=400,
        eval_every=100,
        save_every=100,
    )


def demo_task() -> Recipe:
    """The demo's thinker: follow a random map for k hops with k loops, k up to 8, then beyond.

    One hop a loop is learnt from one hop on, a level at a time. The state after the last loop is
    read, with a short linear carry: the mean over loops and a long carry both tie the model to
    the depths it was trained at.
    """
    return Recipe(
        name="demo-task",
        model=small(vocab_size=16, dim=128, max_seq_len=128),
        data=DataConfig(kind="pointer", batch_size=64, states=16, queries=32, max_hops=8),
        optim=OptimConfig(lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, warmup_steps=100),
        curriculum=CurriculumConfig(threshold=0.95, momentum=0.9, min_steps=20),
        steps=2000,
        eval_every=500,
        save_every=250,
    )


def demo_task_seed_design() -> Recipe:
    """The demo's foil: the same task, data and steps, with the loop of the public seed design."""
    base = demo_task()
    model = MythosConfig.from_dict(
        {
            **base.model.to_dict(),
            "readout": "act",
            "lti_decay": SEED_LTI_DECAY,
            "loop_index": True,
            "loop_index_scale": 1.0,
            "loop_lora": True,
        }
    )
    return replace(base, name="demo-task-seed-design", model=model)


def small(vocab_size: int, dim: int, max_seq_len: int) -> MythosConfig:
    """The small networks' common choices: few experts, the loop that extrapolates in depth.

    readout "last" and A near 0.01 kept 99 % at eight times the trained depth on the pointer task,
    where the seed's choices fell to chance. The embedding starts wider and the loop index fainter
    than the seed's: at 0.02 and 1 the index outweighs the token 10 to 25 times in energy.
    """
    return MythosConfig(
        vocab_size=vocab_size,
        dim=dim,
        n_heads=4,
        n_kv_heads=2,
        max_seq_len=max_seq_len,
        max_loop_iters=8,
        prelude_layers=1,
        coda_layers=1,
        attn_type="gqa",
        n_experts=4,
        n_shared_experts=1,
        n_experts_per_tok=2,
        expert_dim=dim,
        lora_rank=4,
        max_output_tokens=max_seq_len,
        readout="last",
        lti_decay=0.01,
        loop_index_scale=0.1,
        embed_init_std=0.1,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "cpu-tiny": cpu_tiny,
    "demo-text": demo_text,
    "demo-task": demo_task,
    "demo-task-seed-design": demo_task_seed_design,
}


def recipe(name: str) -> Recipe:
    """The named recipe, fresh.

    Raises:
        ConfigError: If no recipe has that name.
    """
    if name not in RECIPES:
        raise ConfigError(f"no recipe is called {name!r}; {did_you_mean(name, RECIPES)}")
    return RECIPES[name]()
