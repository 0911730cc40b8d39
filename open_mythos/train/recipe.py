"""Recipe: the plain data that fixes a run, from model to seed."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import ConfigError, did_you_mean
from open_mythos.parallel.degrees import Degrees
from open_mythos.train.checks import at_least, in_unit, positive, whole
from open_mythos.train.data_config import DataConfig as DataConfig, DataKind
from open_mythos.train.depth import DepthConfig as DepthConfig


PriorKind = Literal["geometric", "poisson"]
Precision = Literal["fp32", "bf16", "fp16", "auto"]
OptimKind = Literal["adamw", "muon"]
Tracker = Literal["tensorboard", "wandb"]
ScheduleKind = Literal["cosine", "wsd", "linear", "constant"]

# What makes a row as long as it is, for the message about one that is too long.
ROW_SETTINGS: dict[DataKind, str] = {
    "text": "data.seq_len",
    "chat": "data.seq_len",
    "pointer": "a row of data.states and data.queries",
    "parity": "data.length",
}


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer, its schedule, and the guards around it.

    Attributes:
        kind: "adamw", or "muon": orthogonalised momentum for the hidden matrices and expert stacks,
            AdamW for embedding, router, vectors and the rest.
        lr: Peak learning rate.
        muon_lr: Peak rate of what Muon moves; None is `lr`, as its updates have AdamW's usual size.
        muon_momentum: Share of the past in Muon's momentum.
        schedule: After the warm-up: "cosine", "linear" (both reach the end at the last step),
            "wsd" (stay, then fall linearly) or "constant".
        warmup_steps: Steps of linear rise to the peak.
        final_ratio: Learning rate of the last step over the peak.
        decay_fraction: "wsd": share of all steps that the fall takes.
        betas: AdamW's decay rates of the two moments.
        eps: AdamW's floor under the root of the second moment.
        weight_decay: On matrices only; vectors, norms and the injection have none.
        decay_embeddings: Whether the embedding is decayed too.
        clip: Largest gradient norm; 0 does not clip.
        max_skipped: The run stops, saved, after so many non-finite steps in a row; in fp16, those
            are not counted that a smaller loss scale may mend.
        skip_spikes: Leave a step out, too, whose gradient norm is more than so many times the
            running mean of those before it; 0 never does, as in the first 50 steps.
    """

    kind: OptimKind = "adamw"
    lr: float = 1e-3
    muon_lr: float | None = None
    muon_momentum: float = 0.95
    schedule: ScheduleKind = "cosine"
    warmup_steps: int = 20
    final_ratio: float = 0.1
    decay_fraction: float = 0.2
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    decay_embeddings: bool = False
    clip: float = 1.0
    max_skipped: int = 20
    skip_spikes: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(OptimKind):
            raise ConfigError(
                f"optim.kind is {self.kind!r}; {did_you_mean(str(self.kind), get_args(OptimKind))}"
            )
        positive("optim.lr", self.lr)
        if self.muon_lr is not None:
            positive("optim.muon_lr", self.muon_lr)
        positive("optim.eps", self.eps)
        whole("optim.warmup_steps", self.warmup_steps, 0)
        whole("optim.max_skipped", self.max_skipped, 1)
        at_least("optim.weight_decay", self.weight_decay, 0)
        at_least("optim.clip", self.clip, 0)
        if self.skip_spikes:
            at_least("optim.skip_spikes", self.skip_spikes, 1)
        in_unit("optim.final_ratio", self.final_ratio)
        in_unit("optim.decay_fraction", self.decay_fraction)
        for name, shares in (("betas", self.betas), ("muon_momentum", (self.muon_momentum,))):
            for share in shares:
                if not 0.0 <= share < 1.0:
                    raise ConfigError(f"optim.{name} has {share}; each must lie in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Weights of the loss terms beside cross entropy; 0 leaves a term out.

    Attributes:
        z_loss: On the squared log-partition of the logits, which keeps them from drifting.
        ponder: On Graves' ponder cost (loops used plus remainder), which buys shorter thought.
        loop_loss: On the cross entropy after some earlier loops, the mean over them, which teaches
            a network to be read early. Each of them takes one more pass of the coda and the head.
        loop_reads: "loop_loss": how many loops are read, drawn for each step.
        depth_prior: On the divergence of the halting weights from a prior over loops
            (PonderNet, arXiv 2107.05407).
        prior: "depth_prior": "geometric", or "poisson"; either is cut to the loops that are run.
        prior_mean: "depth_prior": mean of the prior before the cut.
        gate_entropy: On the entropy of the gate's exit loop, which is raised; with it every loop is
            read and scored, the cross entropy is the mean over loops by the gate's exit
            probabilities, and the gate learns where to leave (Ouro, arXiv 2510.25741: 0.05 to 0.1).
    """

    z_loss: float = 0.0
    ponder: float = 0.0
    loop_loss: float = 0.0
    loop_reads: int = 1
    depth_prior: float = 0.0
    prior: PriorKind = "geometric"
    prior_mean: float = 4.0
    gate_entropy: float = 0.0

    def __post_init__(self) -> None:
        for name in ("z_loss", "ponder", "loop_loss", "depth_prior", "gate_entropy"):
            at_least(f"objective.{name}", getattr(self, name), 0)
        whole("objective.loop_reads", self.loop_reads, 1)
        if self.prior not in get_args(PriorKind):
            raise ConfigError(
                f"objective.prior is {self.prior!r}; "
                f"{did_you_mean(str(self.prior), get_args(PriorKind))}"
            )
        if not (math.isfinite(self.prior_mean) and self.prior_mean > 1):
            raise ConfigError(
                f"objective.prior_mean is {self.prior_mean}; it must be more than 1, the fewest "
                "loops there are"
            )


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """When a task with levels goes on to the next.

    Attributes:
        first_level: Level of the first step; 0 is the full difficulty, without a curriculum.
        threshold: Running accuracy that ends a level.
        momentum: Weight of the past in the running accuracy.
        min_steps: Steps that a level lasts at least.
    """

    first_level: int = 1
    threshold: float = 0.95
    momentum: float = 0.9
    min_steps: int = 20

    def __post_init__(self) -> None:
        whole("curriculum.first_level", self.first_level, 0)
        positive("curriculum.threshold", self.threshold)
        whole("curriculum.min_steps", self.min_steps, 1)
        if not 0.0 <= self.momentum < 1.0:
            raise ConfigError(f"curriculum.momentum is {self.momentum}; it must lie in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How a run is computed: speed and memory, up to rounding not what is learnt.

    Attributes:
        precision: "fp32", or "bf16": forward and backward in bfloat16 on a copy of the weights,
            updates in float32 on the masters, which are what is saved; "fp16": the same in
            float16, with a scaled loss; "auto": bf16 on a GPU that has it, fp16 on one that has
            not, else fp32.
        compile: Compile the dense blocks and the turn of the loop.
        checkpoint: Keep only the states between loops, and compute each loop again on the way
            back.
        micro_batch: Rows of one forward and backward pass on one rank; a step whose share is larger
            makes several and adds up their gradients. 0 is all rows at once.
        async_save: On several ranks: write checkpoints beside training, from a copy in host memory.
    """

    precision: Precision = "fp32"
    compile: bool = False
    checkpoint: bool = False
    micro_batch: int = 0
    async_save: bool = False

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ConfigError(
                f"engine.precision is {self.precision!r}; "
                f"{did_you_mean(str(self.precision), get_args(Precision))}"
            )
        for name in ("compile", "checkpoint", "async_save"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"engine.{name} is True or False, not {getattr(self, name)!r}")
        whole("engine.micro_batch", self.micro_batch, 0)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run, whole.

    Attributes:
        name: What the run is called.
        model: The network.
        init_from: A model or run folder, of this network, whose weights are the first step's; ""
            draws them.
        data: What it sees.
        depth: How often it loops while training.
        optim: How it learns.
        objective: What it minimises.
        curriculum: How a task grows harder.
        engine: How it is computed.
        parallel: How it is divided over the ranks that torchrun starts.
        steps: Optimizer steps of the whole run.
        seed: Fixes weights, data, depths and dropout.
        eval_every: Steps between evaluations; 0 evaluates at the end only.
        eval_loops: Numbers of loops to evaluate with, beside the one that training means; empty is
            1 and twice that.
        eval_tokens: Text: targets of the held-out text that an evaluation scores, the first ones.
        eval_samples: Text: continuations that an evaluation writes.
        eval_prompts: Text: what they begin with; empty is what the held-out text has.
        save_every: Steps between checkpoints; 0 saves at the end only.
        keep_last: Checkpoints to keep; 0 keeps all.
        best_by: Evaluation numbers of this name, whatever evaluator gave them, are averaged, and
            the checkpoint with the best mean is kept too: the least "loss", the largest of any
            other. "" keeps none.
        log_every: Steps between lines on a console that is no terminal.
        log_to: Trackers, beside metrics.jsonl: "tensorboard", "wandb".
        router_bias_step: How far one step moves the bias that evens out the experts; 0 is off.
        device: "auto" (the accelerator if there is one), or a torch device such as "cuda:1".
    """

    name: str
    model: MythosConfig
    init_from: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    parallel: Degrees = field(default_factory=Degrees)
    steps: int = 1000
    seed: int = 0
    eval_every: int = 200
    eval_loops: tuple[int, ...] = ()
    eval_tokens: int = 16_384
    eval_samples: int = 2
    eval_prompts: tuple[str, ...] = ()
    save_every: int = 200
    keep_last: int = 3
    best_by: str = "loss"
    log_every: int = 20
    log_to: tuple[Tracker, ...] = ()
    router_bias_step: float = 1e-3
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "eval_tokens"):
            whole(name, getattr(self, name), 1)
        for name in ("seed", "eval_every", "eval_samples", "save_every", "keep_last"):
            whole(name, getattr(self, name), 0)
        for loops in self.eval_loops:
            whole("eval_loops", loops, 1)
        for tracker in self.log_to:
            if tracker not in get_args(Tracker):
                raise ConfigError(
                    f"log_to has {tracker!r}; {did_you_mean(str(tracker), get_args(Tracker))}"
                )
        at_least("router_bias_step", self.router_bias_step, 0)
        if self.objective.ponder and self.model.readout == "last":
            raise ConfigError(
                f"objective.ponder is {self.objective.ponder} but model.readout is 'last', in "
                "which halting plays no part; set the one to 0 or the other to 'act'"
            )
        if self.objective.depth_prior and self.model.readout not in ("act", "act_last"):
            raise ConfigError(
                f"objective.depth_prior is {self.objective.depth_prior} but model.readout is "
                f"{self.model.readout!r}, whose halting weights are no distribution over loops; "
                "set the one to 0 or the other to 'act'"
            )
        if self.objective.gate_entropy:
            self._check_gate()
        if self.objective.loop_loss and self.depth.backprop_loops == 1:
            raise ConfigError(
                f"objective.loop_loss is {self.objective.loop_loss} but depth.backprop_loops is 1, "
                "so that no loop before the last is differentiated; raise it, or leave one out"
            )
        length, room = self.data.row_length, self.model.max_seq_len
        if length > room:
            setting = ROW_SETTINGS.get(self.data.kind, "a row of data.task")
            raise ConfigError(
                f"{setting} ({length}) exceeds model.max_seq_len ({room}); "
                "lower the one or raise the other"
            )

    def _check_gate(self) -> None:
        """Refuse what does not go with a gate that weighs every loop.

        Raises:
            ConfigError: Naming the setting.
        """
        told = f"objective.gate_entropy is {self.objective.gate_entropy}"
        if self.model.readout != "last":
            raise ConfigError(
                f"{told} but model.readout is {self.model.readout!r}, whose halting decides by "
                "itself what is read; set the one to 0 or the other to 'last'"
            )
        if self.objective.loop_loss:
            raise ConfigError(
                f"{told} and objective.loop_loss is {self.objective.loop_loss}, but the gate has "
                "every loop scored already; set one of them to 0"
            )
        if self.depth.backprop_loops is not None:
            raise ConfigError(
                f"{told} but depth.backprop_loops is {self.depth.backprop_loops}, while the gate "
                "weighs every loop; leave it out, or set the former to 0"
            )
