"""Which implementation runs: the rules in one place."""

from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from open_mythos.errors import InputError


AttentionBackend = Literal["auto", "sdpa", "flash", "reference"]
ExpertsBackend = Literal[
    "auto", "fused", "grouped", "blocks", "loop", "gathered", "dense", "reference"
]

FLASH_WIDEST = 256
# Rows of a 16-bit matrix must be multiples of 16 bytes for torch's grouped matmul.
GROUPED_ALIGNMENT = 8
# Triton's experts load 16 elements of a row at once, and cut an expert's rows into tiles of 128:
# with fewer choices than this per expert most of each tile is empty.
FUSED_ALIGNMENT = 16
FUSED_LOAD = 32
# Choices per expert from which one op over all of them pays on a CPU, where no graph needs it.
BLOCKS_LOAD = 2
# Choices per expert up to which a compiled step without gradient copies an expert for each of them.
GATHERED_LOAD = 1
# Experts up to which a compiled model runs all of them on all tokens rather than break its graph.
FEW_EXPERTS = 8


HAS_TRITON = find_spec("triton") is not None
HAS_FLASH = find_spec("flash_attn") is not None  # the optional flash-attn package


# The package that this file is part of: what its tensors are, its kernels know.
OURS = __name__.partition(".")[0]


def plain(weight: object) -> bool:
    """Whether no class of somebody else's is behind a weight, as quantisation puts one there.

    Kernels read memory, which such a tensor keeps otherwise; torch's own functions ask its class.
    """
    kind = type(weight)
    if kind is nn.Parameter or kind is Tensor:  # what Dynamo can follow
        return True
    return kind.__module__.partition(".")[0] in ("torch", OURS)


def has_grouped() -> bool:
    """Whether this torch has the grouped matmul."""
    return hasattr(F, "grouped_mm")


def traced() -> bool:
    """Whether torch is recording a graph, so that no value may be read on the host."""
    return torch.compiler.is_compiling() or exporting()


def exporting() -> bool:
    """Whether torch is recording a graph to be taken elsewhere.

    `torch.compiler.is_exporting()` says what this flag says, but to Dynamo of torch 2.11, which
    takes it for true wherever it compiles.
    """
    return torch.compiler._is_exporting_flag


def summed(x: Tensor) -> bool:
    """Whether the products of one row `x` (..., D) are written as sums, for Inductor to vectorise.

    On a CPU its loops read a weight 2 to 4 times faster than the matmul does (256 x 1024: 11 us for
    33 in float32, 15 for 51 in bfloat16), and take in what stands before and behind them. Without
    gradient only, and not in exported graphs, which may run anywhere.
    """
    return (
        x.device.type == "cpu"
        and torch.compiler.is_compiling()
        and not exporting()
        and 0 < x.numel() <= x.shape[-1]  # last: an export must not be told how many rows it has
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def held(x: Tensor) -> Tensor:
    """`x`, which Inductor then forms once: what a sum of products reads over and over.

    What is cheap to form (a norm, SwiGLU, a conversion) it puts into every loop that reads it,
    which in such a sum is once per output: a row's experts then take 2.3 times as long in bfloat16
    and 1.8 in float32, other linear maps 1.5 and 1.2 (dim 512, one core). `as_strided` is about
    memory, so that its argument is always written down; elsewhere it is a view.
    """
    return torch.as_strided(x, x.shape, x.stride())


def capturing() -> bool:
    """Whether a CUDA graph is being captured, so that no value may be read on the host."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def attention_backend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, wanted: AttentionBackend
) -> str:
    """The attention implementation for these tensors.

    flash-attn is picked only where it is right: CUDA, one 16-bit dtype, no mask tensor, equal head
    widths up to the 256 that its kernels have.

    Raises:
        InputError: If `wanted` is not a backend, or is flash where flash cannot run.
    """
    if wanted not in get_args(AttentionBackend):
        known = get_args(AttentionBackend)
        raise InputError(f"attention backend is one of {known}, not {wanted!r}")
    fits = (
        HAS_FLASH
        and q.is_cuda
        and q.dtype in (torch.float16, torch.bfloat16)
        and q.dtype == k.dtype == v.dtype
        and mask is None
        and q.shape[-1] == v.shape[-1] <= FLASH_WIDEST
        and not traced()
    )
    if wanted == "flash" and not fits:
        raise InputError(
            "flash attention needs flash-attn, a CUDA device, 16-bit tensors, no mask and equal "
            "query and value widths; use backend='sdpa'"
        )
    if wanted == "auto":
        return "flash" if fits else "sdpa"
    return wanted


def experts_backend(
    x: Tensor, count: int, hidden: int, wanted: ExpertsBackend, *, choices: int | None = None
) -> str:
    """The implementation for tokens `x` (N, D) and `count` experts of width `hidden`.

    On CUDA Triton's kernels run wherever they can, but for bfloat16 with few of the `choices` (N *
    k; None is N) per expert, where the grouped matmul has the smaller tiles. That one is right for
    aligned bfloat16 only: float32 does not compile, float64 is refused by torch. A CPU runs one op
    over blocks of rows, in bfloat16 and float32, but for a few choices outside of graphs, where
    the loop is no slower. The loop's shapes depend on the counts: under export, and where few
    experts are compiled, every expert runs on every token instead, and a compiled step without
    gradient copies the chosen experts where it makes few choices; with more of both a compiled
    model breaks its graph at the loop.

    Raises:
        InputError: If `wanted` is not a backend, or is fused where Triton is not installed, or
            blocks elsewhere than on a CPU.
    """
    if wanted not in get_args(ExpertsBackend):
        raise InputError(f"experts backend is one of {get_args(ExpertsBackend)}, not {wanted!r}")
    if wanted == "fused" and not HAS_TRITON:
        raise InputError("experts_backend='fused' needs triton; install it, or use 'auto'")
    if wanted == "blocks" and x.device.type != "cpu":
        raise InputError(f"experts_backend='blocks' needs a CPU, not {x.device}; use 'auto'")
    if wanted != "auto":
        return wanted
    dim, some = x.shape[-1], x.shape[0] > 0
    # On a CPU, where reading counts is free, training steps by the loop took 0.82 and 0.93 of the
    # time (16 experts, one thread, minima of 8 on a busy machine; medians 0.90 and 0.99).
    grouped = has_grouped() and x.dtype == torch.bfloat16 and some and (x.is_cuda or traced())
    grouped = grouped and dim % GROUPED_ALIGNMENT == 0 and hidden % GROUPED_ALIGNMENT == 0
    # In float32 the kernels are 2.6 times slower than the loop (H200), which no graph can hold.
    wide = x.dtype == torch.float32 and (traced() or capturing())
    fused = HAS_TRITON and x.is_cuda and some
    fused = fused and (x.dtype in (torch.bfloat16, torch.float16) or wide)
    fused = fused and dim % FUSED_ALIGNMENT == 0 and hidden % FUSED_ALIGNMENT == 0
    if fused and not (grouped and (choices or x.shape[0]) < FUSED_LOAD * count):
        return "fused"
    copied = traced() and not exporting() and not x.is_cuda
    copied = copied and some and not torch.is_grad_enabled()
    if copied and (choices or x.shape[0]) <= GATHERED_LOAD * count:
        return "gathered"
    blocks = some and not x.is_cuda and x.device.type == "cpu"
    blocks = blocks and x.dtype in (torch.bfloat16, torch.float32)
    blocks = blocks and not exporting()
    if blocks and (traced() or (choices or x.shape[0]) >= BLOCKS_LOAD * count):
        return "blocks"
    if grouped:
        return "grouped"
    few = count <= FEW_EXPERTS
    fixed = exporting() or capturing() or (traced() and few)
    return "dense" if fixed else "loop"
