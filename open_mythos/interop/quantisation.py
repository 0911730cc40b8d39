"""Weights of 8 or 4 bits through torchao: which layers get them, and how much of a network that is.

Weight-only: activations, keys and values stay as they are. A product reads fewer bytes and computes
in the model's own dtype.
"""

import logging
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from open_mythos.errors import InputError, MissingExtraError
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.linear import Linear
from open_mythos.nn.loop.adapter import LoRAAdapter
from open_mythos.nn.moe.layer import MoEFFN
from open_mythos.ops.backend import plain


Kind = Literal["int8", "int4"]

GROUP = 32  # int4: weights of a row that share a scale
ROWS = 16  # int4: its kernels take so many outputs at once
LEAST_SHARE = 0.5


@dataclass(frozen=True)
class Quantised:
    """What a network's weights became.

    Attributes:
        kind: "int8" or "int4".
        dtype: What products are computed in, and all else is stored in.
        layers: Names of the linear maps that hold such weights.
        parameters: Of the network, shared ones counted once.
        quantised: Those of them in `layers`.
        left: What stays, by name, with its number of parameters.
        bytes_before: Of all parameters.
        bytes_after: Of all parameters, scales included.
    """

    kind: str
    dtype: torch.dtype
    layers: tuple[str, ...]
    parameters: int
    quantised: int
    left: dict[str, int]
    bytes_before: int
    bytes_after: int

    @property
    def share(self) -> float:
        """Share of the parameters that was quantised."""
        return self.quantised / self.parameters

    def __str__(self) -> str:
        """One line for people."""
        before, after = self.bytes_before / 1e6, self.bytes_after / 1e6
        return (
            f"{self.kind} in {str(self.dtype).partition('.')[2]}: {len(self.layers)} layers, "
            f"{self.share:.1%} of {self.parameters:,} parameters; {before:.1f} -> {after:.1f} MB"
        )


def quantize(model: OpenMythos, kind: Kind | str, *, partial: bool = False) -> Quantised:
    """Give a network's linear maps weights of few bits, in place and for inference only.

    int8 has one scale per output (symmetric), int4 a scale and a zero per 32 weights of a row. What
    stays: the embedding, and the head where it is the same table; norms, the router, the halting
    gate, the per-loop adapter and the injection, which are small and decide much.

    Args:
        model: For int4 in bfloat16, on a CPU or CUDA.
        kind: "int8" or "int4".
        partial: Whether to go on where routed experts, or layers of odd widths, would stay as they
            are, or where less than half of the parameters would change.

    Returns:
        What was quantised and what was not; `model.quantised` says the kind.

    Raises:
        MissingExtraError: Without torchao.
        InputError: If the kind is none, the model cannot have it here, or much would stay.
    """
    if kind not in get_args(Kind):
        raise InputError(f"quantize is {kind!r}; it must be 'int8' or 'int4'")
    before = {name: _bytes(p) for name, p in model.named_parameters()}
    odd = next((name for name, p in model.named_parameters() if not plain(p)), None)
    if odd is not None:
        raise InputError(f"{odd} is quantised already; load the model again")
    wanted = _maps(model)
    fitting = {name: module for name, module in wanted.items() if _fits(module, kind)}
    held = {f"{name}.weight" for name in fitting}
    counts = {name: p.numel() for name, p in model.named_parameters()}
    total, taken = sum(counts.values()), sum(counts[name] for name in held)
    if not partial:
        _check_whole(model, wanted, fitting, taken / total)
    _through_torchao(model, kind, fitting)
    for name, module in fitting.items():
        if plain(module.weight):
            raise InputError(f"torchao left {name} as it was; this version of it does not fit")
    found = Quantised(
        kind=kind,
        dtype=model.embed.weight.dtype,
        layers=tuple(fitting),
        parameters=total,
        quantised=taken,
        left={name: n for name, n in counts.items() if name not in held},
        bytes_before=sum(before.values()),
        bytes_after=sum(_bytes(p) for p in model.parameters()),
    )
    model.quantised = kind
    return found


def _maps(model: OpenMythos) -> dict[str, Linear]:
    """Linear maps that always run as layers, by name, without those that stay."""
    staying = {"head"} if model.cfg.tied_head else set()
    for name, module in model.named_modules():
        if isinstance(module, MoEFFN):
            staying.add(f"{name}.router")
        elif isinstance(module, LoRAAdapter):
            staying.add(f"{name}.down")
    named = model.named_modules()
    return {n: m for n, m in named if isinstance(m, Linear) and n not in staying}


def _fits(module: Linear, kind: str) -> bool:
    rows, width = module.weight.shape
    return kind == "int8" or (width % GROUP == 0 and rows % ROWS == 0)


def _check_whole(
    model: OpenMythos, wanted: dict[str, Linear], fitting: dict[str, Linear], share: float
) -> None:
    """Refuse to leave much as it is.

    Raises:
        InputError: Saying what would stay.
    """
    way = "quantise the rest all the same with quantize(model, kind, partial=True)"
    stacks = [m for m in model.modules() if isinstance(m, MoEFFN)]
    if stacks:
        routed = sum(m.gate_up.numel() + m.down.numel() for m in stacks)
        whole = sum(p.numel() for p in model.parameters())
        raise InputError(
            f"the routed experts, {routed / whole:.0%} of the parameters, are stacks of matrices "
            f"that run in grouped products, for which torchao has no weight-only kernel; {way}"
        )
    odd = [name for name in wanted if name not in fitting]
    if odd:
        rows, width = wanted[odd[0]].weight.shape
        raise InputError(
            f"{odd[0]} maps {width} to {rows} channels; int4 needs multiples of {GROUP} and "
            f"{ROWS}: take int8, or {way}"
        )
    if share < LEAST_SHARE:
        raise InputError(
            f"only {share:.0%} of the parameters are in linear maps that can be quantised (the "
            f"embedding stays); {way}"
        )


def _through_torchao(model: OpenMythos, kind: str, layers: dict[str, Linear]) -> None:
    ao = _torchao(kind)
    weight = model.embed.weight
    config: Any
    if kind == "int4" and weight.dtype != torch.bfloat16:
        # On a CPU torchao takes float32 too, and 50 times as long (64 tokens, dim 512, one core).
        raise InputError(f"the model is {weight.dtype}; int4 goes with bfloat16: model.bfloat16()")
    if kind == "int8":
        config = ao.Int8WeightOnlyConfig()
    elif weight.device.type == "cpu":
        config = _int4_on_cpu()
    elif weight.is_cuda:
        config = ao.Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d")
    else:
        raise InputError(f"the model is on {weight.device}; int4 needs a CPU or CUDA")
    ao.quantize_(model, config, filter_fn=lambda _, name: name in layers)


def _torchao(kind: str) -> Any:
    """torchao, which on its way in warns of every kernel for another machine.

    Raises:
        MissingExtraError: If it is not there.
    """
    loud = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [log.level for log in loud]
    try:
        for log in loud:
            log.setLevel(logging.ERROR)
        return import_module("torchao.quantization")
    except ImportError as error:
        raise MissingExtraError("torchao", "quant", f"{kind} weights") from error
    finally:
        for log, level in zip(loud, levels, strict=True):
            log.setLevel(level)


def _int4_on_cpu() -> Any:
    """The configuration of packed int4 weights on a CPU, which torchao keeps among its prototypes.

    Raises:
        InputError: If this version of torchao has it no more.
    """
    try:
        prototype = import_module("torchao.prototype.quantization.int4")
    except ImportError as error:
        raise InputError(
            "int4 on a CPU is a prototype of torchao 0.18, which this version lacks; take int8, or "
            "CUDA"
        ) from error
    return prototype.PrototypeInt4WeightOnlyConfig(group_size=GROUP, set_inductor_config=False)


def _bytes(parameter: Tensor) -> int:
    """Bytes of a parameter, those of its parts where it is quantised."""
    if plain(parameter):
        return parameter.nbytes
    parts: Any = parameter
    names, _ = parts.__tensor_flatten__()
    return sum(_bytes(getattr(parameter, name)) for name in names)
