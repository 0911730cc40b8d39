"""Surgery: a pretrained stack becomes prelude, loop and coda, and one loop is what it was before.

The loop starts at what the prelude says, e, and at one loop the core reads exactly that: the
network then is the source, without the layers that were dropped. What later loops read is a choice
(`Start`): carry * h + (1 - carry) * e to begin with, h being what the loop before said; or h alone.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CheckpointError, ConfigError, did_you_mean
from open_mythos.model.mythos import OpenMythos
from open_mythos.retrofit.cut import Cut, cut
from open_mythos.retrofit.fold import Shared, check_shared, fold_layer
from open_mythos.retrofit.source import Source, open_source
from open_mythos.retrofit.weights import Read, block_weights, outer_weights


Start = Literal["lti_first", "concat_linear", "none", "substep"]
# Buffers that old exports carry along; angles are formed from the config.
FORMED = ("rotary_emb.inv_freq",)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a stack is cut, and how its loop begins.

    Attributes:
        prelude: Layers before the loop, the first ones.
        core: Layers of one loop.
        coda: Layers behind the loop, the last ones.
        core_start: First layer of the core; None is right before the coda.
        loops: Loops that the network runs unless told otherwise.
        start: What a later loop reads. "lti_first": A h + B e, a diagonal each, A learnt inside
            (0, 1) (Parcae, arXiv 2604.12946); "concat_linear": W [h; e], a full matrix (McLeish
            et al., arXiv 2511.07384); "none": h alone; "substep": h alone, and each loop takes
            1 / loops of the core's step, which needs no training (Chen et al., arXiv 2605.23872)
            and is the source at loops = 1.
        carry: Share of h in that at the start, in (0, 1); the last two ignore it. Near 0, all loops
            say what the first says; near 1, the core is applied to its own output, which it has
            never read. Before any healing 0.1 cost least of 0.1, 0.5 and 0.9 at 2 and at 4 loops
            (SmolLM2-135M, docs/retrofit.md).
        max_seq_len: Positions of a sequence; None is the source's number.
        lora_rank: None: all loops stand for the same `core` layers. A number folds `loops` x `core`
            layers into them: loop t stands for layers of its own, by corrections of this rank of
            the core's maps, which are the source at full rank; 0 folds without any. Later loops
            read h alone then (start="none").
        shared: Of folded layers, what the core's maps are: "average", "first", "last" or "step"
            (`fold_layer`).
    """

    prelude: int
    core: int
    coda: int
    core_start: int | None = None
    loops: int = 4
    start: Start = "lti_first"
    carry: float = 0.1
    max_seq_len: int | None = None
    lora_rank: int | None = None
    shared: Shared = "average"

    def __post_init__(self) -> None:
        check_shared(self.shared)
        if self.lora_rank is not None and (self.lora_rank < 0 or self.start != "none"):
            raise ConfigError(
                f"lora_rank is {self.lora_rank} with start={self.start!r}; a rank is 0 or more, "
                "and folded layers read what the ones before said: start='none'"
            )
        if self.start not in get_args(Start):
            raise ConfigError(
                f"start is {self.start!r}; {did_you_mean(str(self.start), get_args(Start))}"
            )
        if not 0.0 < self.carry < 1.0:
            raise ConfigError(
                f"carry is {self.carry}; it must lie inside (0, 1) (start='none' carries all)"
            )

    @property
    def stretch(self) -> int:
        """Layers of the source that the loop stands for."""
        return self.core if self.lora_rank is None else self.core * self.loops


@dataclass(frozen=True)
class Retrofit:
    """A looped network made of a pretrained one.

    Attributes:
        model: In evaluation mode, in the dtype of the source.
        cut: Where its layers come from; its core is all that the loop stands for.
        source: What it was made of.
    """

    model: OpenMythos
    cut: Cut
    source: Source


def retrofit(folder: str | Path, plan: Plan) -> Retrofit:
    """Make a looped network of the pretrained model in a Hugging Face folder.

    Raises:
        ConfigError: If our blocks cannot do what the source's do, or the plan does not fit it.
        CheckpointError: If weights are missing, damaged, or more than the config tells of.
    """
    source = open_source(folder)
    parts = cut(source.n_layers, plan.prelude, plan.stretch, plan.coda, plan.core_start)
    cfg = looped_config(source, plan)
    asked: set[str] = set()

    def read(name: str) -> Tensor:
        asked.add(name)
        return source.tensor(name)

    state = outer_weights(read, cfg)
    places = [(f"prelude.{i}", layer) for i, layer in enumerate(parts.prelude)]
    places += [(f"coda.{i}", layer) for i, layer in enumerate(parts.coda)]
    if plan.lora_rank is None:
        places += [(core_name(i), layer) for i, layer in enumerate(parts.core)]
    else:
        state |= folded_weights(read, parts.core, plan, cfg)
    for place, layer in places:
        block = block_weights(read, layer, cfg)
        state |= {f"{place}.{name}": tensor for name, tensor in block.items()}
    _refuse_leftovers(source, asked, parts)
    state |= loop_weights(cfg, plan, state["norm.weight"].dtype)
    return Retrofit(OpenMythos.from_state(cfg, state, source=str(folder)).eval(), parts, source)


def looped_config(source: Source, plan: Plan) -> MythosConfig:
    """The config of the looped network: the source's sizes, the plan's loop, nothing else."""
    cfg = MythosConfig(
        **source.fields,
        attn_type="gqa",
        max_loop_iters=plan.loops,
        prelude_layers=plan.prelude,
        core_layers=plan.core,
        coda_layers=plan.coda,
        core_ffn="dense",
        injection=plan.start,
        lti_decay=plan.carry,
        damping=1.0 / plan.loops if plan.start == "substep" else 1.0,
        loop_norm="none",
        initial_state="input",
        readout="last",
        loop_index=False,
        loop_lora=False,
        core_lora_rank=plan.lora_rank or 0,
    )
    return cfg if plan.max_seq_len is None else replace(cfg, max_seq_len=plan.max_seq_len)


def folded_weights(read: Read, stretch: range, plan: Plan, cfg: MythosConfig) -> dict[str, Tensor]:
    """The core's layers and their corrections, of a stretch of layers, by their names in the model.

    Raises:
        ConfigError: If layers have more of their own than maps and gains.
    """
    for name in ("attention_bias", "qk_norm"):
        if getattr(cfg, name):
            raise ConfigError(
                f"lora_rank is {plan.lora_rank}, but the source's layers also differ in what "
                f"{name} adds, which no correction of a map can be; leave lora_rank out"
            )
    state: dict[str, Tensor] = {}
    for i in range(plan.core):
        layers = [block_weights(read, layer, cfg) for layer in stretch[i :: plan.core]]
        place = i / max(plan.core - 1, 1)
        block, tables = fold_layer(layers, plan.shared, plan.lora_rank or 0, place)
        state |= {f"{core_name(i)}.{name}": tensor for name, tensor in block.items()}
        state |= {f"recurrent.corrections.{i}.{name}": tensor for name, tensor in tables.items()}
    return state


def loop_weights(cfg: MythosConfig, plan: Plan, dtype: torch.dtype) -> dict[str, Tensor]:
    """What the source has nothing of: the injection's start, and a halting gate at zero.

    The diagonals stay in float32, in which A + B is one; in bfloat16 it would be off by 0.4 %.
    """
    at, one = "recurrent.injection.", torch.eye(cfg.dim, dtype=dtype)
    found = {
        "recurrent.act.halt.weight": torch.zeros(1, cfg.dim, dtype=dtype),
        "recurrent.act.halt.bias": torch.zeros(1, dtype=dtype),
    }
    if plan.start == "lti_first":
        found[f"{at}log_A"] = torch.full((cfg.dim,), math.log(-math.log(plan.carry)))
        found[f"{at}log_dt"] = torch.zeros(1)
        found[f"{at}B"] = torch.full((cfg.dim,), 1.0 - plan.carry)
    elif plan.start == "concat_linear":
        found[f"{at}mix.weight"] = torch.cat((plan.carry * one, (1.0 - plan.carry) * one), dim=1)
    return found


def core_name(index: int) -> str:
    """What the core's layer `index` is called in the network."""
    return f"recurrent.deeper.{index - 1}" if index else "recurrent.block"


def _refuse_leftovers(source: Source, asked: set[str], parts: Cut) -> None:
    """Refuse weights that nothing asked for: a part of the source that ours would lack."""
    dropped = tuple(f"model.layers.{layer}." for layer in parts.dropped)
    tied = {"lm_head.weight"} if source.fields["tied_head"] else set()
    left = [
        name
        for name in sorted(source.files.keys() - asked - tied)
        if not name.startswith(dropped) and not name.endswith(FORMED)
    ]
    if left:
        raise CheckpointError(
            f"{source.folder} has {len(left)} tensors that a block of ours has no place for, "
            f"{left[0]!r} first; this variant of the family cannot be retrofitted"
        )
