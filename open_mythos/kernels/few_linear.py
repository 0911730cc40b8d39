"""Linear maps and SwiGLU of the few rows of a decoding step: bound by reading the weights once.

A single row is a matrix-vector product: a program owns some outputs, and reads their weights, which
lie along the input, in whole rows. Up to 16 rows share one tensor-core tile. Nothing is added
atomically: the same bits each time, and no shape or grid depends on a value.
"""

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from open_mythos.kernels.dependent import dependent_launch
from open_mythos.kernels.interpreter import multiply


# Most rows of one call: one tile of the tensor cores.
MOST_ROWS = 16
# Programs from which a GPU of 132 processors with 2 programs each has enough to do.
FULL = 256
# Most weights that a program of 4 warps holds at once: 64 per thread, 8 loads of 16 bytes.
HELD = 8192


@triton.jit
def silu_times(gate, up):  # type: ignore[no-untyped-def]
    """silu(gate) * up, of float32."""
    return gate / (1.0 + tl.exp(-gate)) * up


@triton.jit  # type: ignore[untyped-decorator]
def _linear_row_kernel(x, weight, plus, out, OUT: tl.constexpr, IN: tl.constexpr,  # type: ignore[no-untyped-def]  # noqa: PLR0913
                       BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, PLUS: tl.constexpr,
                       EAGER: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """BLOCK_O outputs of one row; EAGER reads weights while the kernel before still runs."""
    if PDL and not EAGER:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.program_id(1).to(tl.int64)
    o = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    base = weight + o.to(tl.int64)[:, None] * IN
    total = tl.zeros((BLOCK_O,), tl.float32)
    for start in tl.static_range(0, IN, BLOCK_I):
        i = start + tl.arange(0, BLOCK_I)
        w = tl.load(base + i[None, :], mask=(o < OUT)[:, None] & (i < IN)[None, :], other=0.0)
        if EAGER and start == 0:
            gdc_wait()
            gdc_launch_dependents()
        v = tl.load(x + row * IN + i, mask=i < IN, other=0.0)
        total += tl.sum(w.to(tl.float32) * v.to(tl.float32)[None, :], axis=1)
    if PLUS:
        total += tl.load(plus + row * OUT + o, mask=o < OUT, other=0.0).to(tl.float32)
    tl.store(out + row * OUT + o, total, mask=o < OUT)


@triton.jit  # type: ignore[untyped-decorator]
def _linear_tile_kernel(x, weight, plus, out, rows, OUT: tl.constexpr,  # type: ignore[no-untyped-def]  # noqa: PLR0913
                        IN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_O: tl.constexpr,
                        BLOCK_I: tl.constexpr, STAGES: tl.constexpr, PLUS: tl.constexpr,
                        PDL: tl.constexpr):  # fmt: skip
    """BLOCK_O outputs of all rows."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.arange(0, BLOCK_N)
    live = (row < rows)[:, None]
    o = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    base = weight + o.to(tl.int64)[None, :] * IN
    total = tl.zeros((BLOCK_N, BLOCK_O), tl.float32)
    for start in tl.range(0, IN, BLOCK_I, num_stages=STAGES):
        i = start + tl.arange(0, BLOCK_I)
        v = tl.load(x + row[:, None] * IN + i[None, :], mask=live & (i < IN)[None, :], other=0.0)
        w = tl.load(base + i[:, None], mask=(i < IN)[:, None] & (o < OUT)[None, :], other=0.0)
        total = multiply(v, w, total)
    at = row[:, None] * OUT + o[None, :]
    mask = live & (o < OUT)[None, :]
    if PLUS:
        total += tl.load(plus + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + at, total, mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _swiglu_row_kernel(x, gate_up, hidden, W: tl.constexpr, D: tl.constexpr,  # type: ignore[no-untyped-def]  # noqa: PLR0913
                       BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr, EAGER: tl.constexpr,
                       PDL: tl.constexpr):  # fmt: skip
    """BLOCK_F hidden channels of one row; EAGER as in `_linear_row_kernel`."""
    if PDL and not EAGER:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.program_id(1).to(tl.int64)
    f = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    base = gate_up + f.to(tl.int64)[:, None] * D
    gate = tl.zeros((BLOCK_F,), tl.float32)
    up = tl.zeros((BLOCK_F,), tl.float32)
    for start in tl.static_range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        mask = (f < W)[:, None] & (d < D)[None, :]
        g = tl.load(base + d[None, :], mask=mask, other=0.0)
        u = tl.load(base + W * D + d[None, :], mask=mask, other=0.0)
        if EAGER and start == 0:
            gdc_wait()
            gdc_launch_dependents()
        v = tl.load(x + row * D + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
        gate += tl.sum(g.to(tl.float32) * v, axis=1)
        up += tl.sum(u.to(tl.float32) * v, axis=1)
    tl.store(hidden + row * W + f, silu_times(gate, up), mask=f < W)


@triton.jit  # type: ignore[untyped-decorator]
def _swiglu_tile_kernel(x, gate_up, hidden, rows, W: tl.constexpr, D: tl.constexpr,  # type: ignore[no-untyped-def]  # noqa: PLR0913
                        BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr,
                        STAGES: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """BLOCK_F hidden channels of all rows."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.arange(0, BLOCK_N)
    live = (row < rows)[:, None]
    f = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    base = gate_up + f.to(tl.int64)[None, :] * D
    gate = tl.zeros((BLOCK_N, BLOCK_F), tl.float32)
    up = tl.zeros((BLOCK_N, BLOCK_F), tl.float32)
    for start in tl.range(0, D, BLOCK_D, num_stages=STAGES):
        d = start + tl.arange(0, BLOCK_D)
        mask = (d < D)[:, None] & (f < W)[None, :]
        v = tl.load(x + row[:, None] * D + d[None, :], mask=live & (d < D)[None, :], other=0.0)
        g = tl.load(base + d[:, None], mask=mask, other=0.0)
        u = tl.load(base + W * D + d[:, None], mask=mask, other=0.0)
        gate, up = multiply(v, g, gate), multiply(v, u, up)
    at = hidden + row[:, None] * W + f[None, :]
    tl.store(at, silu_times(gate, up), mask=live & (f < W)[None, :])


def _own(outputs: int, inputs: int, copies: int = 1) -> tuple[int, int]:
    """Outputs and inputs of a one-row program's tile, `copies` tiles being held at once.

    Few outputs are spread over many programs; many are gathered until a program has enough
    loads under way.
    """
    across = min(HELD // copies, triton.next_power_of_2(inputs))
    own = 1
    while own * across * copies < HELD and triton.cdiv(outputs, 2 * own) >= FULL:
        own *= 2
    return own, across


def _share(outputs: int) -> int:
    """Outputs of a program of the tiled kernels: the most that leave each processor one program."""
    return next((own for own in (64, 32, 16) if triton.cdiv(outputs, own) >= FULL // 2), 8)


def _deep(x: Tensor, own: int) -> int:
    """Inputs of a step of the tiled kernels: the weights of four steps are 64 KB at most."""
    most = min(512, 16384 // own // x.element_size())
    return min(most, max(16, 1 << (x.shape[1] - 1).bit_length()))


def few_linear(
    x: Tensor, weight: Tensor, plus: Tensor | None = None, *, eager: bool = False
) -> Tensor:
    """X @ weight.T for few rows; inference only. The plain twin is `F.linear` (+ `plus`).

    Args:
        x: (N, in), N <= 16. This and all below contiguous, of one dtype.
        weight: (out, in).
        plus: (N, out) added before the result is rounded, or None.
        eager: Whether the weight may be read while the kernel before still runs: right where that
            kernel does not write the weight.

    Returns:
        (N, out).
    """
    (rows, dim), outputs = x.shape, weight.shape[0]
    out = x.new_empty((rows, outputs))
    added, with_plus = (out, False) if plus is None else (plus, True)
    pdl = dependent_launch(x.device)
    if rows == 1:
        own, across = _own(outputs, dim)
        _linear_row_kernel[(triton.cdiv(outputs, own), 1)](
            x, weight, added, out, OUT=outputs, IN=dim, BLOCK_O=own, BLOCK_I=across,
            PLUS=with_plus, EAGER=pdl and eager, PDL=pdl, num_warps=4, launch_pdl=pdl,
        )  # fmt: skip
        return out
    own = _share(outputs)
    _linear_tile_kernel[(triton.cdiv(outputs, own),)](
        x, weight, added, out, rows, OUT=outputs, IN=dim, BLOCK_N=MOST_ROWS, BLOCK_O=own,
        BLOCK_I=_deep(x, own), STAGES=4, PLUS=with_plus, PDL=pdl, num_warps=4, launch_pdl=pdl,
    )  # fmt: skip
    return out


def few_swiglu(
    x: Tensor, gate_up: Tensor, down: Tensor, plus: Tensor | None = None, *, eager: bool = False
) -> Tensor:
    """down(silu(gate(x)) * up(x)) for few rows, in two launches; inference only.

    The plain twin is `nn.feed_forward.Expert`.

    Args:
        x: (N, D), N <= 16. This and all below contiguous, of one dtype.
        gate_up: (2W, D), the gate in the first W rows.
        down: (D, W).
        plus: (N, D) added before the result is rounded, or None.
        eager: As in `few_linear`, of `gate_up`.

    Returns:
        (N, D).
    """
    (rows, dim), width = x.shape, down.shape[1]
    hidden = x.new_empty((rows, width))
    pdl = dependent_launch(x.device)
    if rows == 1:
        own, across = _own(width, dim, copies=2)
        _swiglu_row_kernel[(triton.cdiv(width, own), 1)](
            x, gate_up, hidden, W=width, D=dim, BLOCK_F=own, BLOCK_D=across,
            EAGER=pdl and eager, PDL=pdl, num_warps=4, launch_pdl=pdl,
        )  # fmt: skip
    else:
        own = _share(width)
        _swiglu_tile_kernel[(triton.cdiv(width, own),)](
            x, gate_up, hidden, rows, W=width, D=dim, BLOCK_N=MOST_ROWS, BLOCK_F=own,
            BLOCK_D=_deep(x, 2 * own), STAGES=4, PDL=pdl, num_warps=4, launch_pdl=pdl,
        )  # fmt: skip
    # The kernel above waited for all before it: `down` is complete, whoever wrote it.
    return few_linear(hidden, down, plus, eager=True)
