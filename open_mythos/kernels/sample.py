"""Sampling kernels: the likeliest token, or one drawn by temperature and top-k, in two launches.

A vocabulary is cut into blocks that many programs read at once; one program per row ends it. A
draw is a race of exponential clocks, argmax of exp((l - best) / T) / noise: no softmax is needed.

The k-th largest is found exactly. The largest of every group of 32 tokens are themselves tokens, so
the k-th largest of those is at most the k-th largest of all, and only the few groups that reach it
are looked at again. Both searches are over the bits of (best - l) / T >= 0, whose order as integers
is that of the numbers, two bits a step.
"""

import ctypes

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from open_mythos.kernels.dependent import dependent_launch
from open_mythos.kernels.rows import warps_of


# Tokens that a program of the first launch reads; more where there are plenty of programs.
BLOCK = 1024
LARGE_BLOCK = 4096
PLENTY = 2**20
# Groups of a row, which one program holds; groups grow beyond 32 tokens where there were more.
LEAST_GROUP = 32
MOST_GROUPS = 4096
# Limits within which the survivors of a row fit in the registers of one program.
MOST_TOP_K = 128
MOST_VOCAB = 2**19


@triton.jit
def _below(best, x, inverse):  # type: ignore[no-untyped-def]
    """(best - x) / T >= 0; infinite for what is not comparable."""
    gap = tl.where(x == best, 0.0, (best - x) * inverse)
    return tl.where(gap >= 0.0, gap, float("inf"))


@triton.jit
def _counts(key, low, step):  # type: ignore[no-untyped-def]
    """How many keys lie below low + 1, 2, 3 steps: three counts of 21 bits in one reduction."""
    one = (key < low + step).to(tl.int64)
    two = (key < low + 2 * step).to(tl.int64)
    three = (key < low + 3 * step).to(tl.int64)
    return tl.sum(one + (two << 21) + (three << 42))


@triton.jit
def _narrow(counts, low, step, held, k):  # type: ignore[no-untyped-def]
    """The quarter that holds the k-th key: its start, its last key, keys up to there, next step."""
    one = (counts & 0x1FFFFF).to(tl.int32)
    two = ((counts >> 21) & 0x1FFFFF).to(tl.int32)
    three = (counts >> 42).to(tl.int32)
    at = (one < k).to(tl.int32) + (two < k).to(tl.int32) + (three < k).to(tl.int32)
    held = tl.where(at == 0, one, tl.where(at == 1, two, tl.where(at == 2, three, held)))
    low = low + at * step
    # 31 bits: fifteen steps of two, then one.
    return low, low + step - 1, held, tl.where(step == 2, 1, step >> 2)


@triton.jit
def _cut(key, size, k, most):  # type: ignore[no-untyped-def]
    """A key that at least k of `size` do not exceed: the least, or one that few (`most`) do not."""
    low = size * 0
    last = low + 0x7FFFFFFF
    held = size
    step = low + 0x20000000
    while (held > most) & (step > 0):
        low, last, held, step = _narrow(_counts(key, low, step), low, step, held, k)
    return last


@triton.jit  # type: ignore[untyped-decorator]
def _peaks(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    logits,
    peaks,
    vocab,
    groups,
    row_stride,
    GROUP: tl.constexpr,
    SIZE: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.program_id(1).to(tl.int64)
    cols = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    x = tl.load(logits + row * row_stride + cols, mask=cols < vocab, other=float("-inf"))
    best = tl.max(tl.reshape(x.to(tl.float32), (SIZE // GROUP, GROUP)), 1)
    to = tl.program_id(0) * (SIZE // GROUP) + tl.arange(0, SIZE // GROUP)
    tl.store(peaks + row * groups + to, best, mask=to < groups)


@triton.jit  # type: ignore[untyped-decorator]
def _among_groups(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    line,
    clock,
    found,
    best,
    reach,
    count,
    inverse,
    spread,
    k,
    vocab,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    ROOM: tl.constexpr,
):
    """The race among the top k of the `count` <= ROOM groups that `reach`, held at once."""
    slot = tl.cumsum(reach.to(tl.int32), 0) - 1
    tl.store(found + slot, tl.arange(0, GROUPS), mask=reach)
    tl.debug_barrier()  # written by other threads of this program
    index = tl.arange(0, ROOM)
    group = tl.load(found + index, mask=index < count, other=0)
    cols = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    real = (index < count)[:, None] & (cols < vocab)
    x = tl.load(line + cols, mask=real, other=float("-inf")).to(tl.float32)
    gap = _below(best, x, inverse)
    key = tl.where(real, gap.to(tl.int32, bitcast=True), 0x7FFFFFFF)
    last = _cut(key, count * 0 + ROOM * GROUP, k, k)
    alive = real & (key <= last) & (gap <= spread)
    e = tl.load(clock + cols, mask=alive, other=1.0).to(tl.float32)
    score = tl.where(alive, tl.exp(-gap) / e, -1.0)
    return tl.min(tl.where(score == tl.max(score), cols, vocab))


@triton.jit  # type: ignore[untyped-decorator]
def _among_all(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    line, clock, best, zero, inverse, spread, k, vocab, SIZE: tl.constexpr
):
    """The same for ties in so many groups that they do not fit: over the row, block by block."""
    cols = tl.arange(0, SIZE)
    low = zero
    last = zero + 0x7FFFFFFF
    held = zero + vocab
    step = zero + 0x20000000
    while (held > k) & (step > 0):
        counts = zero.to(tl.int64)
        start = zero
        while start < vocab:
            real = start + cols < vocab
            x = tl.load(line + start + cols, mask=real, other=float("-inf")).to(tl.float32)
            key = _below(best, x, inverse).to(tl.int32, bitcast=True)
            counts += _counts(tl.where(real, key, 0x7FFFFFFF), low, step)
            start += SIZE
        low, last, held, step = _narrow(counts, low, step, held, k)
    winner = zero
    first = zero.to(tl.float32) - 1.0
    begin = zero
    while begin < vocab:
        inside = begin + cols < vocab
        y = tl.load(line + begin + cols, mask=inside, other=float("-inf")).to(tl.float32)
        gap = _below(best, y, inverse)
        alive = inside & (gap.to(tl.int32, bitcast=True) <= last) & (gap <= spread)
        e = tl.load(clock + begin + cols, mask=alive, other=1.0).to(tl.float32)
        score = tl.where(alive, tl.exp(-gap) / e, -1.0)
        top = tl.max(score, 0)
        at = begin + tl.min(tl.where(score == top, cols, SIZE), 0)
        winner = tl.where(top > first, at, winner)
        first = tl.maximum(first, top)
        begin += SIZE
    return winner


@triton.jit  # type: ignore[untyped-decorator]
def _finish(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    logits,
    noise,
    peaks,
    found,
    out,
    inverse,
    spread,
    k,
    vocab,
    groups,
    row_stride,
    noise_stride,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    ROOM: tl.constexpr,
    SIZE: tl.constexpr,
    PDL: tl.constexpr,
):
    """One row: find the groups that matter, the k-th of their tokens, and the race's winner."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.program_id(0).to(tl.int64)
    line, clock = logits + row * row_stride, noise + row * noise_stride
    group = tl.arange(0, GROUPS)
    peak = tl.load(peaks + row * groups + group, mask=group < groups, other=float("-inf"))
    best = tl.max(peak, 0)
    key = _below(best, peak, inverse).to(tl.int32, bitcast=True)
    zero = tl.program_id(0) * 0
    bound = _cut(key, zero + GROUPS, k, ROOM)
    reach = (key <= bound) & (group < groups)
    count = tl.sum(reach.to(tl.int32), 0)
    winner = zero
    if count <= ROOM:
        winner = _among_groups(
            line, clock, found + row * ROOM, best, reach, count, inverse, spread, k, vocab,
            GROUP, GROUPS, ROOM,
        )  # fmt: skip
    else:
        winner = _among_all(line, clock, best, zero, inverse, spread, k, vocab, SIZE)
    tl.store(out + row, tl.where(winner < vocab, winner, 0).to(tl.int64))


@triton.jit  # type: ignore[untyped-decorator]
def _race(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    logits,
    noise,
    peaks,
    scores,
    tokens,
    inverse,
    vocab,
    row_stride,
    noise_stride,
    SIZE: tl.constexpr,
    GREEDY: tl.constexpr,
    PDL: tl.constexpr,
):
    """A block's largest logit and its winner, the score relative to that logit."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.program_id(1).to(tl.int64)
    cols = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    real = cols < vocab
    x = tl.load(logits + row * row_stride + cols, mask=real, other=float("-inf")).to(tl.float32)
    best = tl.max(x, 0)
    if GREEDY:
        score, first = x, best
    else:
        e = tl.load(noise + row * noise_stride + cols, mask=real, other=1.0).to(tl.float32)
        score = tl.where(real, tl.exp(-_below(best, x, inverse)) / e, -1.0)
        first = tl.max(score, 0)
    winner = tl.min(tl.where(real & (score == first), cols, vocab), 0)
    to = row * tl.num_programs(0) + tl.program_id(0)
    tl.store(peaks + to, best)
    tl.store(scores + to, first)
    tl.store(tokens + to, winner)


@triton.jit  # type: ignore[untyped-decorator]
def _join(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    peaks,
    scores,
    tokens,
    out,
    inverse,
    vocab,
    blocks,
    BLOCKS: tl.constexpr,
    GREEDY: tl.constexpr,
    PDL: tl.constexpr,
):
    """The winner of a row among those of its blocks; of equal ones the first."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    real = block < blocks
    score = tl.load(scores + row * blocks + block, mask=real, other=0.0)
    token = tl.load(tokens + row * blocks + block, mask=real, other=vocab)
    if GREEDY:
        score = tl.where(real, score, float("-inf"))
    else:
        peak = tl.load(peaks + row * blocks + block, mask=real, other=float("-inf"))
        share = tl.exp(-_below(tl.max(peak, 0), peak, inverse))
        score = tl.where(real, score * share, -1.0)
    winner = tl.min(tl.where(score == tl.max(score, 0), token, vocab), 0)
    tl.store(out + row, tl.where(winner < vocab, winner, 0).to(tl.int64))


def _inverse(temperature: float) -> float:
    """1 / T as torch has it on a device: of T in float32, and a factor."""
    return 1.0 / ctypes.c_float(temperature).value


def _even(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def sample(
    logits: Tensor,
    noise: Tensor,
    temperature: float,
    top_k: int = 0,
    spread: float = float("inf"),
) -> Tensor:
    """Twin of `sample_plain` in `ops.sample` for temperature, top-k, and min-p after top-k.

    Ties with the k-th stay. A vocabulary is at most `MOST_VOCAB` wide, and k at most `MOST_TOP_K`
    or at least the vocabulary. Where a row has so many ties that their groups do not fit one
    program, it is read block by block: right, but some ten times slower.

    Args:
        logits: (B, V), not NaN.
        noise: (B, V) float32 draws of a unit exponential.
        temperature: Positive; no smaller than float32 has an inverse of.
        top_k: Tokens kept; 0 keeps all.
        spread: Keep what lies no more than this below the largest, in units of the temperature;
            only where `top_k` filters.

    Returns:
        (B,) int64; on a GPU `logits` in any 16-bit or float32 dtype are read once, uncast.
    """
    (batch, vocab), device = logits.shape, logits.device
    logits, noise = _even(logits), _even(noise)
    if not 0 < top_k < vocab:
        return _winner(logits, noise, temperature)
    out = torch.empty(batch, dtype=torch.int64, device=device)
    if not batch:
        return out
    group = LEAST_GROUP
    while triton.cdiv(vocab, group) > MOST_GROUPS:
        group *= 2
    groups = triton.cdiv(vocab, group)
    room = max(triton.next_power_of_2(2 * top_k), 16)
    peaks = torch.empty(batch, groups, dtype=torch.float32, device=device)
    found = torch.empty(batch, room, dtype=torch.int32, device=device)
    inverse, pdl, size = _inverse(temperature), dependent_launch(device), _size(batch, vocab)
    _peaks[(triton.cdiv(vocab, size), batch)](
        logits, peaks, vocab, groups, logits.stride(0),
        GROUP=group, SIZE=size, PDL=pdl, num_warps=warps_of(size), launch_pdl=pdl,
    )  # fmt: skip
    _finish[(batch,)](
        logits, noise, peaks, found, out, inverse, spread, top_k, vocab, groups,
        logits.stride(0), noise.stride(0),
        GROUP=group, GROUPS=triton.next_power_of_2(groups), ROOM=room, SIZE=LARGE_BLOCK, PDL=pdl,
        num_warps=8 if room * group <= 2 * LARGE_BLOCK else 16, launch_pdl=pdl,
    )  # fmt: skip
    return out


def largest(logits: Tensor) -> Tensor:
    """Twin of `argmax(-1)`: the first of the largest of (B, V) logits without NaN; (B,) int64."""
    return _winner(_even(logits), None, 1.0)


def _size(batch: int, vocab: int) -> int:
    return BLOCK if batch * vocab < PLENTY else LARGE_BLOCK


def _winner(logits: Tensor, noise: Tensor | None, temperature: float) -> Tensor:
    (batch, vocab), device = logits.shape, logits.device
    out = torch.empty(batch, dtype=torch.int64, device=device)
    if not batch:
        return out
    size = _size(batch, vocab)
    blocks = triton.cdiv(vocab, size)
    peaks, scores = torch.empty(2, batch, blocks, dtype=torch.float32, device=device).unbind()
    tokens = torch.empty(batch, blocks, dtype=torch.int32, device=device)
    inverse, pdl, greedy = _inverse(temperature), dependent_launch(device), noise is None
    clocks = logits if noise is None else noise
    _race[(blocks, batch)](
        logits, clocks, peaks, scores, tokens, inverse, vocab, logits.stride(0), clocks.stride(0),
        SIZE=size, GREEDY=greedy, PDL=pdl, num_warps=warps_of(size), launch_pdl=pdl,
    )  # fmt: skip
    wide = triton.next_power_of_2(blocks)
    _join[(batch,)](
        peaks, scores, tokens, out, inverse, vocab, blocks,
        BLOCKS=wide, GREEDY=greedy, PDL=pdl, num_warps=warps_of(wide), launch_pdl=pdl,
    )  # fmt: skip
    return out
