"""Two CPU cores: training steps and decoding in turns with open-mythos 0.5.0."""

from collections.abc import Callable, Iterator
from typing import Literal, get_args

from open_mythos.bench.contender import Contender, Work
from open_mythos.bench.ours import Engine, Ours
from open_mythos.bench.peers.openmythos_05 import OpenMythos05
from open_mythos.bench.sizes import Size, size_cpu, size_cpu_512, size_tiny
from open_mythos.bench.suite import Case, Found, Setting, rates, told
from open_mythos.train.recipe import Precision


ROUNDS = 15
TRAIN_CAP = 12.0
DECODE_CAP = 6.0
COMPILER_SECONDS = 150.0  # with both precisions, where its cache on disk is empty
TOKENS_AT_ONCE = 4  # one token alone is near what the clock and the scheduler make of it

What = Literal["train", "train compiled", "decode"]
COMPILED: tuple[What, ...] = ("train compiled", "decode")


def cpu(setting: Setting) -> list[Case]:
    """Both CPU sizes, both attentions, in turns so that a slow minute is slow for all."""
    tiny = setting.size.name == "tiny"  # for which nobody waits a minute
    sizes = [size_tiny()] if tiny else [size_cpu(), size_cpu_512()]
    whats: tuple[What, ...] = ("train", "decode") if tiny else get_args(What)
    return [
        Case(
            f"{what} dim {size.model.dim}",
            "",
            _turns(setting, size, attn, what, compiled=what in COMPILED and not tiny),
            attn,
            20 + COMPILER_SECONDS * (what in COMPILED and not tiny),
        )
        for size in sizes
        for attn in setting.attns
        for what in whats
    ]


def contenders(
    setting: Setting, size: Size, attn: str, *, compiled: bool = False
) -> dict[str, Contender]:
    """This library and 0.5.0, each in float32 and with bf16 where it can.

    With `compiled` this library is compiled; 0.5.0 always runs as it comes: it offers no compiled
    step of decoding, and compiling its forward breaks at every expert (15 graphs for 3 loops).
    """
    cfg = size.config(attn, max_loop_iters=size.loops)
    found: dict[str, Contender] = {}
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    for precision in precisions:
        engine = Engine(precision=precision, compile=compiled)
        found[f"{Ours.name} {precision}"] = Ours(cfg, setting.device, engine)
        if setting.peer is not None:
            peer = OpenMythos05(setting.peer, cfg, setting.device, precision)
            found[f"{peer.name} {precision}"] = peer
    return found


def _turns(
    setting: Setting, size: Size, attn: str, what: What, *, compiled: bool
) -> Callable[[], Iterator[Found]]:
    def run() -> Iterator[Found]:
        works: dict[str, Work] = {}
        failed: dict[str, str] = {}
        for name, contender in contenders(setting, size, attn, compiled=compiled).items():
            try:
                works[name] = _work(contender, size, what)
                works[name].step()
            except (RuntimeError, ValueError, ImportError) as error:  # bf16 that does not run here
                works.pop(name, None)
                failed[name] = told(error)
        steps = {name: work.step for name, work in works.items()}
        cap = DECODE_CAP if what == "decode" else TRAIN_CAP
        timings = setting.clock.in_turns(steps, rounds=ROUNDS, cap=cap)
        for name, timing in timings.items():
            yield Found(
                case=f"{what} dim {size.model.dim}",
                who=name,
                figures=rates(works[name], timing, None),
                shape=works[name].shape,
                note="; ".join(f"{who} failed: {why}" for who, why in failed.items()),
            )

    return run


def _work(contender: Contender, size: Size, what: What) -> Work:
    if what != "decode":
        return contender.train(size.batch, size.seq_len)
    work = contender.decode(1, size.context)

    def several() -> None:
        for _ in range(TOKENS_AT_ONCE):
            work.step()

    return Work(several, TOKENS_AT_ONCE * work.tokens, 0.0, work.shape, work.note)
