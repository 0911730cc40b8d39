"""Which implementation runs, and that the choice is printable."""

import pytest
import torch

from open_mythos.ops.backend import attention_backend, experts_backend, has_grouped


@pytest.mark.parametrize(
    ("dtype", "width", "hidden", "rows", "grouped"),
    [
        (torch.bfloat16, 16, 8, 4, True),
        (torch.bfloat16, 12, 8, 4, False),  # rows of 24 bytes
        (torch.bfloat16, 16, 6, 4, False),
        (torch.bfloat16, 16, 8, 0, False),  # nothing to do
        (torch.float32, 16, 8, 4, False),
        (torch.float64, 16, 8, 4, False),
        (torch.float16, 16, 8, 4, False),
    ],
)
def test_grouped_is_picked_only_where_it_is_right(
    dtype: torch.dtype, width: int, hidden: int, rows: int, grouped: bool
) -> None:
    chosen = experts_backend(torch.zeros(rows, width, dtype=dtype), 64, hidden, "auto")
    assert chosen == ("grouped" if grouped and has_grouped() else "loop")


@pytest.mark.parametrize("wanted", ["grouped", "loop", "dense", "reference"])
def test_an_explicit_experts_backend_is_kept(wanted: str) -> None:
    assert experts_backend(torch.zeros(2, 3), 4, 5, wanted) == wanted


def test_on_a_cpu_attention_is_sdpa_unless_asked_otherwise() -> None:
    q = torch.zeros(1, 1, 1, 4)
    assert attention_backend(q, q, q, None, "auto") == "sdpa"
    assert attention_backend(q, q, q, None, "reference") == "reference"
