"""The recipe that heals a retrofitted network: short, gentle, and deeper step by step."""

from open_mythos.config.mythos import MythosConfig
from open_mythos.train.recipe import (
    DataConfig,
    DepthConfig,
    ObjectiveConfig,
    OptimConfig,
    Recipe,
)


# Where `open-mythos retrofit` writes unless told otherwise.
LOOPED = "looped"
LOOPS = 4


def retrofit() -> Recipe:
    """Heal what `open-mythos retrofit` wrote on text: set init_from to it, data.corpus to the text.

    Loops are drawn around 4; their mean starts at 1, where the network is the source, and grows
    over the first half of the run: a curriculum of recurrences keeps what the source knew and saves
    compute (McLeish et al., arXiv 2511.07384). Depths down to 1 stay in the draw all along, so that
    the shallow end is healed too. The peak rate is a third of what the small text recipes begin
    with, behind a warm-up: the weights are trained already.

    The network here is a stand-in of that shape; that of the folder takes its place.
    """
    return Recipe(
        name="retrofit",
        model=MythosConfig(
            vocab_size=1024,
            dim=64,
            n_heads=4,
            n_kv_heads=2,
            max_seq_len=512,
            max_loop_iters=LOOPS,
            prelude_layers=1,
            coda_layers=1,
            attn_type="gqa",
            core_ffn="dense",
            readout="last",
            injection="lti_first",
            lti_decay=0.1,
            loop_norm="none",
            loop_index=False,
            loop_lora=False,
        ),
        init_from=LOOPED,
        data=DataConfig(kind="text", batch_size=32, seq_len=512),
        depth=DepthConfig(kind="poisson", mean=LOOPS, min=1, max=2 * LOOPS, curriculum_steps=500),
        optim=OptimConfig(lr=3e-4, warmup_steps=50, betas=(0.9, 0.95), weight_decay=0.1),
        objective=ObjectiveConfig(z_loss=1e-4),
        steps=1000,
        eval_every=250,
        eval_loops=(1, 2, 8),
        save_every=250,
    )
