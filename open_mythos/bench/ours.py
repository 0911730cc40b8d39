"""This library as a contender: the one place where the benchmark meets its insides."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from open_mythos.bench.contender import LEARNING_RATE, Work, random_ids
from open_mythos.bench.floor import prefill_flops, train_flops
from open_mythos.config.mythos import MythosConfig
from open_mythos.data.batch import Batch
from open_mythos.generate.decode import Stop, stream
from open_mythos.generate.sampling import Sampling
from open_mythos.generate.static import Decoder, read
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.moe.layer import MoEFFN
from open_mythos.ops.backend import ExpertsBackend
from open_mythos.parallel.apply import apply
from open_mythos.train.build import build_state
from open_mythos.train.recipe import (
    DataConfig,
    DepthConfig,
    EngineConfig,
    OptimConfig,
    Precision,
    Recipe,
)
from open_mythos.train.step import Launched, finish, launch, train_step


BATCHES = 4  # different random batches, so that no step sees what the last one saw
NEVER = -12.0  # halting logit of a position that is to run every loop: 6e-6 a loop
SAMPLING = Sampling(temperature=1.0, top_k=50)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
NEW_TOKENS = 256  # more than any case takes
GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How this library trains: what the benchmark varies of its settings.

    Attributes:
        precision: Of the computation; parameters that the optimizer sees are float32.
        compile: Whether blocks and loop step are compiled, or the step of decoding on a CPU.
        checkpoint: Whether every loop's inside is computed again in the backward pass.
        backprop_loops: Loops, the last ones, that get a gradient; None is all of them.
    """

    precision: Precision
    compile: bool = False
    checkpoint: bool = False
    backprop_loops: int | None = None


@dataclass(frozen=True, eq=False)
class RandomBatches:
    """A batch source of random ids that are on the device already, with depths in a fixed order.

    Attributes:
        vocab_size: Ids lie below it.
        batches: Served in turn.
        depths: Loops of each step, in turn.
        max_level: No curriculum.
    """

    vocab_size: int
    batches: Sequence[Batch]
    depths: Sequence[int]
    max_level: int = 0

    @property
    def batch_size(self) -> int:
        """Rows of a batch."""
        return len(self.batches[0].ids)

    def batch(self, step: int, level: int = 0, rows: Sequence[int] | None = None) -> Batch:
        """The batch of a step, or some of its rows."""
        chosen = self.batches[step % len(self.batches)]
        if rows is not None:
            chosen = replace(chosen, ids=chosen.ids[list(rows)], targets=chosen.targets[list(rows)])
        return replace(chosen, n_loops=self.depths[step % len(self.depths)], level=level)


def random_batches(
    cfg: MythosConfig, batch: int, seq_len: int, depths: Sequence[int], device: torch.device
) -> RandomBatches:
    """Different random ids and targets for each of a few steps."""
    drawn = [random_ids(cfg.vocab_size, 2, batch, seq_len, device=device) for _ in range(BATCHES)]
    return RandomBatches(cfg.vocab_size, [Batch(ids, targets) for ids, targets in drawn], depths)


def built(cfg: MythosConfig, device: torch.device) -> OpenMythos:
    """A network with random weights, drawn on the device, whose positions never halt.

    At the start half of a position's halting probability is spent in the first loop: a depth that
    is to be measured has to be pinned.
    """
    with device:
        model = OpenMythos(cfg)
    with torch.no_grad():
        model.recurrent.act.halt.bias.fill_(NEVER)
    return model


class Ours:
    """open_mythos from this checkout."""

    name = "open_mythos"

    def __init__(
        self,
        cfg: MythosConfig,
        device: torch.device,
        engine: Engine,
        depths: Sequence[int] | None = None,
        *,
        captured: bool = False,
    ) -> None:
        """Networks of `cfg`; each training step runs the next of `depths`, in turn.

        Without `depths` every step runs the config's max_loop_iters, as prefill and decode do.
        Prompts are read by one CUDA graph if `captured`.
        """
        self.cfg, self.device, self.engine = cfg, device, engine
        self.loops, self.captured = cfg.max_loop_iters, captured
        self.depths = depths or (self.loops,)

    def train(self, batch: int, seq_len: int) -> Work:
        """The library's own training step."""
        source = random_batches(self.cfg, batch, seq_len, self.depths, self.device)
        trainer = Trainer(self.cfg, source, self.device, self.engine)
        mean = statistics.mean(self.depths)  # whole where it can be
        return Work(
            step=trainer.step,
            tokens=batch * seq_len,
            flops=train_flops(self.cfg, mean, seq_len) * batch * seq_len,
            shape={"batch": batch, "seq_len": seq_len, "loops": mean, **vars(self.engine)},
        )

    def prefill(self, batch: int, seq_len: int) -> Work:
        """The prompts through a cached pass."""
        model = self._inference()
        if self.engine.compile:
            apply(model, compiled=True, inference=True)
        ids = random_ids(self.cfg.vocab_size, batch, seq_len, device=self.device)
        return Work(
            step=(captured_prefiller if self.captured else prefiller)(model, ids, self.loops),
            tokens=batch * seq_len,
            flops=prefill_flops(self.cfg, self.loops, seq_len) * batch * seq_len,
            shape={
                "batch": batch,
                "seq_len": seq_len,
                "loops": self.loops,
                "compile": self.engine.compile,
            },
        )

    def decode(self, batch: int, context: int) -> Work:
        """One token more, sampled, as `generate` does it on this device unless it is compiled."""
        model = self._inference()
        ids = random_ids(self.cfg.vocab_size, batch, context, device=self.device)
        compiled = self.engine.compile and not ids.is_cuda
        make = partial(decoder, compiled=compiled) if compiled or ids.is_cuda else eager_decoder
        return Work(
            step=make(model, ids, self.loops, SAMPLING),
            tokens=batch,
            shape={"batch": batch, "context": context, "loops": self.loops},
        )

    def _inference(self) -> OpenMythos:
        return built(self.cfg, self.device).to(DTYPES[self.engine.precision]).eval()


class Trainer:
    """A run of the library's own training steps on random batches."""

    def __init__(
        self, cfg: MythosConfig, source: RandomBatches, device: torch.device, engine: Engine
    ) -> None:
        """A network of `cfg` that never halts, and its optimizer."""
        self.source = source
        self.recipe = Recipe(
            name="bench",
            model=cfg,
            depth=DepthConfig(mean=cfg.max_loop_iters, backprop_loops=engine.backprop_loops),
            data=DataConfig(seq_len=source.batches[0].ids.shape[1]),
            engine=EngineConfig(
                precision=engine.precision, compile=engine.compile, checkpoint=engine.checkpoint
            ),
            optim=OptimConfig(lr=LEARNING_RATE, schedule="constant", warmup_steps=0),
            device=str(device),
        )
        self.state = build_state(self.recipe, source, device, lambda r: built(r.model, device))
        self.pending: Launched | None = None

    def step(self) -> None:
        """One step as the trainer takes it: its numbers are read while the next one runs."""
        launched = launch(self.state, self.source, self.recipe)
        if self.pending is not None:
            finish(self.state, self.pending, self.source, self.recipe)
        self.pending = launched

    def loss(self) -> float:
        """One step, and its loss."""
        return train_step(self.state, self.source, self.recipe).loss


def prefiller(model: OpenMythos, ids: Tensor, n_loops: int) -> Callable[[], Tensor]:
    """Reads the prompts into an emptied cache; returns the logits (B, V) after each."""
    cache = model.new_cache(*ids.shape, n_loops=n_loops)

    def step() -> Tensor:
        cache.truncate(0)
        return read(model, ids, n_loops, cache)

    return step


def captured_prefiller(model: OpenMythos, ids: Tensor, n_loops: int) -> Callable[[], Tensor]:
    """`prefiller` as one CUDA graph, and greedily the token (B,) after each prompt."""
    batch, length = ids.shape
    static = Decoder(model, batch, length, n_loops, graph=True, prompt=length)
    return partial(static.prefill, ids)


def decoder(
    model: OpenMythos,
    ids: Tensor,
    n_loops: int,
    sampling: Sampling,
    *,
    graph: bool | None = None,
    compiled: bool = False,
) -> Callable[[], Tensor]:
    """Reads the prompts now; each call then gives the next token (B,) of every row.

    In fixed shapes; `graph` and `compiled` as in `Decoder`: on a GPU one graph per token, unless
    `graph` is False.
    """
    room = min(model.cfg.max_seq_len, ids.shape[1] + NEW_TOKENS)
    static = Decoder(model, ids.shape[0], room, n_loops, sampling, graph=graph, compiled=compiled)
    static.prefill(ids)
    return static.step


def eager_decoder(
    model: OpenMythos, ids: Tensor, n_loops: int, sampling: Sampling
) -> Callable[[], Tensor]:
    """`decoder` the plain way: a cached pass per token."""
    room = min(NEW_TOKENS, model.cfg.max_seq_len - ids.shape[1], model.cfg.max_output_tokens)
    tokens = stream(model, ids, Stop(room), sampling, n_loops, static=False)

    def step() -> Tensor:
        with torch.no_grad():
            return next(tokens)

    step()  # reads the prompts, and gives the token that `decoder` keeps to itself
    return step


def moe_layer(
    cfg: MythosConfig, device: torch.device, dtype: torch.dtype, backend: ExpertsBackend
) -> MoEFFN:
    """The mixture of experts of a looped block, alone, with random weights."""
    with device:
        layer = MoEFFN(cfg).to(dtype)
    layer.experts_backend = backend
    return layer


def use_experts(model: OpenMythos, backend: ExpertsBackend) -> OpenMythos:
    """Let the model's routed experts run by `backend`."""
    ffn = model.recurrent.block.ffn
    assert isinstance(ffn, MoEFFN)
    ffn.experts_backend = backend
    return model
