"""Reading prompts, and writing one token after the other with sampling."""

from collections.abc import Callable, Iterator

from open_mythos.bench.clock import MS
from open_mythos.bench.contender import Contender, largest_batch
from open_mythos.bench.floor import decode_bytes
from open_mythos.bench.ours import Ours
from open_mythos.bench.record import Figure
from open_mythos.bench.suite import CASE_SECONDS, Case, Found, Setting, peers, rates
from open_mythos.config.budget import cache_bytes_per_token


TOKENS = 40
COMPILED_SECONDS = 25.0
UNCOMPARED = ("HF Llama compiled",)  # torch.compile and a cache that grows do not go together


def decode(setting: Setting) -> list[Case]:
    """Milliseconds per token at several batches, this library first."""
    found = []
    for attn in setting.attns:
        ours = (_ours(setting, attn), Ours.name, CASE_SECONDS)
        found += [_decode_case(setting, attn, b, ours) for b in setting.size.decode_batches]
    for attn in setting.attns:
        for peer in peers(setting, attn):
            if peer[1] not in UNCOMPARED:
                found += [_decode_case(setting, attn, b, peer) for b in setting.size.decode_batches]
    return found


def _ours(
    setting: Setting, attn: str, *, compiled: bool = False, captured: bool = False
) -> Callable[[], Contender]:
    cfg = setting.size.config(attn, max_loop_iters=setting.size.loops)
    engine = setting.engine(compile=compiled)
    return lambda: Ours(cfg, setting.device, engine, captured=captured)


def _decode_case(
    setting: Setting,
    attn: str,
    batch: int,
    contender: tuple[Callable[[], Contender], str, float],
) -> Case:
    build, name, seconds = contender
    case = f"batch {batch}"

    def run() -> Iterator[Found]:
        work = build().decode(batch, setting.size.context)
        timing = setting.clock.time(work.step, repeat=TOKENS, cap=2.0)
        figures = rates(work, timing, None)
        if name == Ours.name:
            figures.update(_decode_floor(setting, attn, batch, timing.median))
        figures.update(setting.clock.peak())
        yield Found(case=case, who=name, figures=figures, shape=work.shape, note=work.note)

    return Case(case, name, run, attn, seconds)


def _decode_floor(setting: Setting, attn: str, batch: int, median: float) -> dict[str, Figure]:
    size = setting.size
    cfg, width = size.config(attn), setting.dtype.itemsize
    parts = decode_bytes(cfg, batch, size.context, size.loops, width)
    per_token = cache_bytes_per_token(cfg, size.loops, width)
    figures = {
        "bytes": Figure(sum(parts.values()) / 1e6, "MB"),
        "cache_per_sequence": Figure(size.context * per_token / 1e6, "MB"),
    }
    if setting.ceilings is not None:
        floor = MS * sum(parts.values()) / setting.ceilings.bandwidth
        figures["floor"] = Figure(floor, "ms")
        figures["share_of_floor"] = Figure(floor / median, "1")
    return figures


def prefill(setting: Setting) -> list[Case]:
    """Prompt tokens per second."""
    found = []
    for attn in setting.attns:
        ours = (_ours(setting, attn), Ours.name, CASE_SECONDS)
        found.append(_prefill_case(setting, attn, ours, "prompt"))
        if setting.compile:
            quick = (_ours(setting, attn, compiled=True), Ours.name, COMPILED_SECONDS)
            found.append(_prefill_case(setting, attn, quick, "prompt compiled"))
        if setting.device.type == "cuda":
            replayed = (_ours(setting, attn, captured=True), Ours.name, CASE_SECONDS)
            found.append(_prefill_case(setting, attn, replayed, "prompt captured"))
    for attn in setting.attns:
        beside = [peer for peer in peers(setting, attn) if peer[1] not in UNCOMPARED]
        found += [_prefill_case(setting, attn, peer, "prompt") for peer in beside]
    return found


def _prefill_case(
    setting: Setting, attn: str, contender: tuple[Callable[[], Contender], str, float], case: str
) -> Case:
    build, name, seconds = contender
    size, clock = setting.size, setting.clock

    def attempt(batch: int) -> Found:
        work = build().prefill(batch, size.seq_len)
        timing = clock.time(work.step, cap=2.0)
        figures = {**rates(work, timing, setting.ceilings), **clock.peak()}
        return Found(case=case, who=name, figures=figures, shape=work.shape, note=work.note)

    def run() -> Iterator[Found]:
        yield largest_batch(size.prompt_rows or size.batch, attempt, clock)

    return Case(case, name, run, attn, seconds)
