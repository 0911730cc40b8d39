"""Which implementation runs: the rules in one place."""

from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from open_mythos.errors import InputError


AttentionBackend = Literal["auto", "sdpa", "flash", "reference"]
ExpertsBackend = Literal["auto", "grouped", "loop", "dense", "reference"]

FLASH_WIDEST = 256
# Rows of a 16-bit matrix must be multiples of 16 bytes for torch's grouped matmul.
GROUPED_ALIGNMENT = 8
# Experts up to which a compiled model runs all of them on all tokens rather than break its graph.
FEW_EXPERTS = 8


HAS_FLASH = find_spec("flash_attn") is not None  # the optional flash-attn package


def has_grouped() -> bool:
    """Whether this torch has the grouped matmul."""
    return hasattr(F, "grouped_mm")


def traced() -> bool:
    """Whether torch is recording a graph, so that no value may be read on the host."""
    return torch.compiler.is_compiling() or torch.compiler.is_exporting()


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


def experts_backend(x: Tensor, count: int, hidden: int, wanted: ExpertsBackend) -> str:
    """The implementation for tokens `x` (N, D) and `count` experts of width `hidden`.

    The grouped matmul is right for aligned bfloat16 only: float32 runs 2.5 times slower than the
    loop on a CPU and does not compile, float64 is refused by torch. The loop's shapes depend on
    the counts: under export, and where few experts are compiled, every expert runs on every token
    instead; with more of them a compiled model breaks its graph at the loop.

    Raises:
        InputError: If `wanted` is not a backend.
    """
    if wanted not in get_args(ExpertsBackend):
        raise InputError(f"experts backend is one of {get_args(ExpertsBackend)}, not {wanted!r}")
    if wanted != "auto":
        return wanted
    if torch.compiler.is_exporting():
        return "dense"
    few = count <= FEW_EXPERTS
    aligned = x.shape[-1] % GROUPED_ALIGNMENT == 0 and hidden % GROUPED_ALIGNMENT == 0
    if has_grouped() and x.dtype == torch.bfloat16 and aligned and x.shape[0] > 0:
        return "grouped"
    return "dense" if traced() and few else "loop"
