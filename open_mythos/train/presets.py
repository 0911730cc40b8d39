"""Named runs, as functions that return a Recipe; to make another, replace what differs."""

from collections.abc import Callable
from dataclasses import replace

from open_mythos.config.mythos import SEED_LTI_DECAY, MythosConfig
from open_mythos.errors import ConfigError, did_you_mean
from open_mythos.train.deep_recipes import DEEP_RECIPES
from open_mythos.train.depth_recipes import DEPTH_RECIPES
from open_mythos.train.networks import small
from open_mythos.train.recipe import (
    CurriculumConfig,
    DataConfig,
    DepthConfig,
    OptimConfig,
    Recipe,
)
from open_mythos.train.retrofit_recipe import retrofit
from open_mythos.train.task_recipes import TASK_RECIPES
from open_mythos.train.text_recipes import (
    fineweb_3b,
    prose_23m,
    text_10m,
    text_30m,
    text_120m,
)


def cpu_tiny() -> Recipe:
    """The smallest run worth watching: the bundled plays, half a minute on one core."""
    return Recipe(
        name="cpu-tiny",
        model=small(vocab_size=1024, dim=64, max_seq_len=256),
        data=DataConfig(kind="text", batch_size=8, seq_len=64),
        depth=DepthConfig(kind="poisson", mean=3, min=1, max=6),
        optim=OptimConfig(lr=5e-3, warmup_steps=20, decay_embeddings=True),
        router_bias_step=0.02,
        steps=200,
        eval_every=100,
        save_every=100,
    )


def demo_text() -> Recipe:
    """The demo's reader: the bundled plays, loops drawn around 4 each step."""
    return Recipe(
        name="demo-text",
        model=small(vocab_size=1024, dim=128, max_seq_len=512),
        data=DataConfig(kind="text", batch_size=8, seq_len=128),
        depth=DepthConfig(kind="poisson", mean=4, min=1, max=8),
        optim=OptimConfig(lr=5e-3, warmup_steps=40, decay_embeddings=True),
        router_bias_step=0.02,
        steps=400,
        eval_every=200,
        save_every=100,
    )


def demo_task() -> Recipe:
    """The demo's thinker: walk k steps along a cycle of 11 states in k loops, k up to 6."""
    return Recipe(
        name="demo-task",
        model=small(vocab_size=132, dim=64, max_seq_len=64),
        data=DataConfig(
            kind="pointer",
            batch_size=64,
            states=11,
            queries=11,
            max_hops=6,
            layout="joint",
            maps="cycle",
        ),
        optim=OptimConfig(
            lr=5e-3, betas=(0.9, 0.98), warmup_steps=50, final_ratio=0.05, decay_embeddings=True
        ),
        curriculum=CurriculumConfig(threshold=0.95, momentum=0.5, min_steps=2),
        router_bias_step=0.01,
        steps=500,
        eval_every=250,
        save_every=100,
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


def sft() -> Recipe:
    """Learn to answer: conversations from conversations.jsonl, byte by byte, scored on answers.

    Point data.corpus at a file of one's own, and data.tokenizer at what the model was trained with;
    without weights to start from (init_from), this learns to write before it learns to answer.
    """
    return Recipe(
        name="sft",
        model=small(vocab_size=320, dim=128, max_seq_len=1024),
        data=DataConfig(
            kind="chat",
            corpus="conversations.jsonl",
            tokenizer="byte",
            document_mask=True,
            batch_size=8,
            seq_len=512,
        ),
        depth=DepthConfig(kind="poisson", mean=4, min=1, max=8),
        optim=OptimConfig(lr=1e-3, warmup_steps=20, decay_embeddings=True),
        router_bias_step=0.02,
        steps=400,
        eval_every=100,
        save_every=100,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "cpu-tiny": cpu_tiny,
    "text-10m": text_10m,
    "text-30m": text_30m,
    "text-120m": text_120m,
    "prose-23m": prose_23m,
    "fineweb-3b": fineweb_3b,
    "sft": sft,
    "retrofit": retrofit,
    "demo-text": demo_text,
    "demo-task": demo_task,
    "demo-task-seed-design": demo_task_seed_design,
    **TASK_RECIPES,
    **DEPTH_RECIPES,
    **DEEP_RECIPES,
}


def recipe(name: str) -> Recipe:
    """The named recipe, fresh.

    Raises:
        ConfigError: If no recipe has that name.
    """
    if name not in RECIPES:
        raise ConfigError(f"no recipe is called {name!r}; {did_you_mean(name, RECIPES)}")
    return RECIPES[name]()
