"""Recipes for text, from 10 million parameters to 3 billion; bring your own data."""

from dataclasses import replace

from open_mythos.config.designs import design
from open_mythos.config.mythos import MythosConfig
from open_mythos.config.presets import mythos_3b, own
from open_mythos.train.recipe import (
    DataConfig,
    DepthConfig,
    EngineConfig,
    ObjectiveConfig,
    OptimConfig,
    OptimKind,
    Recipe,
)


# The public design's reference run (SPEC of the seed): 30 billion tokens of FineWeb-Edu.
REFERENCE_TOKENS = 30_000_000_000
REFERENCE_CORPUS = "hf:HuggingFaceFW/fineweb-edu"


def text_10m() -> Recipe:
    """10M parameters: the size for trying an idea on one GPU in minutes, or on a CPU over night."""
    return reader("text-10m", dim=256, batch_size=32, seq_len=512, loops=6, optim="muon", lr=4e-3)


def text_30m() -> Recipe:
    """30M parameters: large enough for depth to show on text."""
    return reader("text-30m", dim=512, batch_size=32, seq_len=1024, loops=6, optim="muon", lr=4e-3)


def text_120m() -> Recipe:
    """120M parameters, the benchmark's size R: dim 1024, 32 experts, depth around 8 loops.

    Moved by AdamW, with which its speed was measured; the smaller ones gain much by Muon.
    """
    return reader(
        "text-120m", dim=1024, batch_size=32, seq_len=1024, loops=8, optim="adamw", lr=1e-3
    )


def prose_23m() -> Recipe:
    """The text model that travels with the repository: 23M parameters, four epochs of prose.

    A prepared corpus of training/prose.py is asked for as `data.corpus`. One block, a dense core of
    two with the per-loop adapter, one block; weights from N(0, 0.02) and Muon, which outweigh every
    design at this size (docs/log.md, benchmarks/depth_text.py). Positions that halt stand still
    ("freeze"), so that an exit saves their loops.
    """
    dim, seq_len, loops = 640, 512, 8
    base = MythosConfig(
        vocab_size=4096,
        dim=dim,
        n_heads=dim // 64,
        n_kv_heads=dim // 128,
        attn_type="gqa",
        max_seq_len=seq_len,
        max_output_tokens=seq_len,
        max_loop_iters=loops,
        prelude_layers=1,
        core_layers=2,
        coda_layers=1,
        dense_hidden=2048,
        rope_theta=10_000.0,
        halted="freeze",
    )
    return Recipe(
        name="prose-23m",
        model=replace(design("mythos", base), core_ffn="dense", loop_lora=True),
        data=DataConfig(kind="text", batch_size=32, seq_len=seq_len),
        depth=DepthConfig(kind="poisson", mean=loops, min=loops // 2, max=2 * loops),
        optim=OptimConfig(
            kind="muon", lr=4e-3, warmup_steps=100, schedule="linear", final_ratio=0.02
        ),
        engine=EngineConfig(precision="bf16", compile=True),
        router_bias_step=0.0,
        steps=1640,
        save_every=500,
    )


def fineweb_3b() -> Recipe:
    """mythos_3b on FineWeb-Edu, with the hyper-parameters of the public design's reference run.

    Sequences of 2,048, 256 of them a step, AdamW at 3e-4 with (0.9, 0.95), weight decay 0.1,
    gradients clipped at 1, 2,000 steps of warm-up, cosine to a tenth, 16-bit, 30B tokens. That run
    pins the loops; so does this one. Spread it with torchrun; `parallel` says how.
    """
    seq_len, batch_size = 2048, 256
    model = mythos_3b()
    return Recipe(
        name="fineweb-3b",
        model=model,
        data=DataConfig(
            kind="text", corpus=REFERENCE_CORPUS, batch_size=batch_size, seq_len=seq_len
        ),
        depth=DepthConfig(kind="fixed", mean=model.max_loop_iters),
        optim=OptimConfig(
            lr=3e-4,
            schedule="cosine",
            warmup_steps=2000,
            final_ratio=0.1,
            betas=(0.9, 0.95),
            weight_decay=0.1,
            clip=1.0,
        ),
        engine=EngineConfig(precision="bf16", compile=True, checkpoint=True, micro_batch=8),
        steps=REFERENCE_TOKENS // (seq_len * batch_size),
        eval_every=1000,
        save_every=500,
    )


def reader(
    name: str,
    *,
    dim: int,
    batch_size: int,
    seq_len: int,
    loops: int,
    optim: OptimKind,
    lr: float,
) -> Recipe:
    """What the text recipes share: the loop that keeps its depth, and a Poisson number of turns.

    The last state is read after a short linear carry (A near 0.01), without loop index and adapter.
    Depth is drawn around a mean: a uniform depth cost nearly all that looping gained in a
    public-domain probe of 15M parameters, where a fixed one kept it, and lost the shallow end. At
    dim 512 and 13M tokens Muon at 2e-3 ended at a perplexity of 26.1 where AdamW ended at 34.2, and
    at 24.7 with 4e-3 and the adapter (docs/log.md).
    """
    model = own(
        dim,
        vocab_size=32000 if dim >= 1024 else 16384,
        max_loop_iters=loops,
        n_experts=32,
        n_shared_experts=1,
        expert_dim=dim // 2,
    )
    return Recipe(
        name=name,
        model=model,
        data=DataConfig(kind="text", batch_size=batch_size, seq_len=seq_len),
        depth=DepthConfig(kind="poisson", mean=loops, min=1, max=2 * loops),
        optim=OptimConfig(kind=optim, lr=lr, warmup_steps=200, betas=(0.9, 0.95), schedule="wsd"),
        objective=ObjectiveConfig(z_loss=1e-4),
        steps=5000,
        eval_every=500,
        save_every=500,
    )


def on_gpu(recipe: Recipe) -> Recipe:
    """The same run in bfloat16 and compiled, as a GPU wants it."""
    return replace(recipe, engine=replace(recipe.engine, precision="bf16", compile=True))
