"""What known accelerators compute at best, so that a speed can be told as a share of it."""

import re
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Peaks:
    """Dense matrix-product rates of one device in TFLOP/s, as its maker states them.

    Attributes:
        narrow: bfloat16 (and float16) with float32 sums; None where there is no bfloat16 unit.
        half: float16 alone.
        tf32: float32 rounded to 10 bits of fraction; None where there is none.
        fp32: float32 proper, which no matrix unit of these devices computes.
    """

    narrow: float | None
    half: float
    tf32: float | None
    fp32: float


# By the name that torch.cuda.get_device_name gives, whole: a slice of a device (MIG) has another
# name and no entry, nor has a device whose maker states rates with sparsity or narrow sums alone.
# Sources: NVIDIA's data sheets of each product, their figures "with sparsity" halved.
KNOWN: dict[str, Peaks] = {
    r"NVIDIA B200": Peaks(2250.0, 2250.0, 1125.0, 75.0),
    r"NVIDIA (H200|H100 80GB HBM3|H800|GH200 \d+GB?( HBM3e)?)": Peaks(989.4, 989.4, 494.7, 66.9),
    r"NVIDIA H[12]00 NVL": Peaks(835.5, 835.5, 417.7, 60.0),
    r"NVIDIA H100 PCIe": Peaks(756.5, 756.5, 378.0, 51.2),
    r"(NVIDIA )?A[18]00(-(SXM4|PCIE)-\d+GB| \d+GB PCIe)": Peaks(312.0, 312.0, 156.0, 19.5),
    r"NVIDIA L40S": Peaks(362.05, 362.05, 183.0, 91.6),
    r"NVIDIA L4": Peaks(121.0, 121.0, 60.0, 30.3),
    r"NVIDIA A10": Peaks(125.0, 125.0, 62.5, 31.2),
    r"Tesla V100-SXM2-\d+GB": Peaks(None, 125.0, None, 15.7),
    r"Tesla V100-PCIE-\d+GB": Peaks(None, 112.0, None, 14.0),
    r"Tesla T4": Peaks(None, 65.0, None, 8.1),
}


def peak_flops(device: torch.device, precision: str) -> float | None:
    """FLOP/s of a device's matrix products at a precision; None where nobody states it.

    Args:
        device: Where a run computes; a CPU has no such figure.
        precision: "bf16", "fp16" or "fp32", which is TF32 where torch is allowed that.
    """
    if device.type != "cuda":
        return None
    rounded = torch.get_float32_matmul_precision() != "highest"
    kind = "tf32" if precision == "fp32" and rounded else precision
    return stated_flops(torch.cuda.get_device_name(device), kind)


def stated_flops(name: str, kind: str) -> float | None:
    """FLOP/s of the device of that name for "bf16", "fp16", "tf32" or "fp32" products."""
    known = next((p for pattern, p in KNOWN.items() if re.fullmatch(pattern, name)), None)
    if known is None:
        return None
    rates = {
        "bf16": known.narrow,
        "fp16": known.half,
        "tf32": known.tf32 or known.fp32,  # where there is no such unit, torch computes in float32
        "fp32": known.fp32,
    }
    rate = rates.get(kind)
    return None if rate is None else rate * 1e12
