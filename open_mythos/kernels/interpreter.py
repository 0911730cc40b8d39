"""What Triton's interpreter cannot do as a GPU does it, and what kernels write instead.

The interpreter (3.6) multiplies bfloat16 as the integers that hold it, and its scalars are arrays
of one element, which no loop takes as a bound under numpy 2.4.
"""

import triton
import triton.language as tl


# Whether kernels run in Triton's interpreter on the CPU.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def multiply(a, b, total):  # type: ignore[no-untyped-def]
    """Add a @ b to `total`; float32 keeps all its bits."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def bound(value):  # type: ignore[no-untyped-def]
    """A scalar as a loop bound, never a constant: the loop would be unrolled whole, and spill."""
    if INTERPRETED:
        return value.handle.data.item()
    return value
