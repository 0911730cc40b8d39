"""Which implementation runs, and that the choice is printable."""

import pytest
import torch

from open_mythos.errors import InputError
from open_mythos.ops import backend
from open_mythos.ops.backend import (
    attention_backend,
    experts_backend,
    has_grouped,
    held,
    plain,
    summed,
)


@pytest.mark.parametrize(
    ("dtype", "width", "hidden", "rows", "want"),
    [
        (torch.bfloat16, 16, 8, 4, "blocks"),
        (torch.bfloat16, 12, 6, 4, "blocks"),  # no alignment is asked for
        (torch.bfloat16, 16, 8, 0, "loop"),  # nothing to do
        (torch.float32, 16, 8, 4, "blocks"),
        (torch.float64, 16, 8, 4, "loop"),
        (torch.float16, 16, 8, 4, "loop"),
    ],
)
def test_a_cpu_takes_blocks_for_many_choices_and_in_every_recorded_graph(
    dtype: torch.dtype,
    width: int,
    hidden: int,
    rows: int,
    want: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.zeros(rows, width, dtype=dtype)
    assert experts_backend(x, 64, hidden, "auto", choices=2 * rows) == "loop"
    assert experts_backend(x, 64, hidden, "auto", choices=2 * 64) == want
    monkeypatch.setattr(backend, "traced", lambda: True)
    assert experts_backend(x, 64, hidden, "auto", choices=2 * rows) == want


@pytest.mark.parametrize(
    ("dtype", "width", "hidden", "grouped"),
    [
        (torch.bfloat16, 16, 8, True),
        (torch.bfloat16, 12, 8, False),  # rows of 24 bytes
        (torch.bfloat16, 16, 6, False),
        (torch.float32, 16, 8, False),
    ],
)
def test_an_exported_graph_has_grouped_experts_only_where_they_are_right(
    dtype: torch.dtype,
    width: int,
    hidden: int,
    grouped: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may run anywhere, and cannot hold an op of a CPU."""
    monkeypatch.setattr(torch.compiler, "_is_exporting_flag", True)
    chosen = experts_backend(torch.zeros(4, width, dtype=dtype), 64, hidden, "auto")
    assert chosen == ("grouped" if grouped and has_grouped() else "dense")


def test_blocks_elsewhere_than_on_a_cpu_are_refused() -> None:
    with pytest.raises(InputError, match="needs a CPU, not meta"):
        experts_backend(torch.zeros(2, 16, device="meta"), 4, 16, "blocks")


class OnCuda:
    """As much of a CUDA tensor as the choice looks at."""

    is_cuda = True

    def __init__(self, rows: int, width: int, dtype: torch.dtype) -> None:
        self.shape, self.dtype = (rows, width), dtype


@pytest.mark.parametrize("exporting", [False, True])
@pytest.mark.parametrize(
    ("dtype", "width", "hidden", "choices", "want"),
    [
        (torch.bfloat16, 32, 16, 128, "fused"),
        (torch.bfloat16, 32, 16, 127, "grouped"),  # fewer than 32 for each of 4 experts
        (torch.bfloat16, 24, 16, 128, "grouped"),
        (torch.bfloat16, 32, 12, 128, None),
        (torch.float16, 32, 16, 128, "fused"),
        (torch.float16, 32, 16, 8, "fused"),  # no grouped matmul
        (torch.float32, 24, 16, 128, None),
        (torch.float64, 32, 16, 128, None),
    ],
)
def test_on_cuda_fused_is_picked_where_it_is_right(
    dtype: torch.dtype,
    width: int,
    hidden: int,
    choices: int,
    want: str | None,
    exporting: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backend, "HAS_TRITON", True)
    monkeypatch.setattr(backend, "has_grouped", lambda: True)
    monkeypatch.setattr(torch.compiler, "_is_exporting_flag", exporting)
    x = OnCuda(8, width, dtype)
    chosen = experts_backend(x, 4, hidden, "auto", choices=choices)
    assert chosen == (want or ("dense" if exporting else "loop"))


@pytest.mark.parametrize("graph", [False, True])
def test_float32_on_cuda_is_fused_only_where_no_loop_can_run(
    graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "HAS_TRITON", True)
    monkeypatch.setattr(backend, "traced", lambda: graph)
    x = OnCuda(8, 32, torch.float32)
    assert experts_backend(x, 4, 16, "auto", choices=128) == ("fused" if graph else "loop")


def test_fused_without_triton_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "HAS_TRITON", False)
    with pytest.raises(InputError, match="triton"):
        experts_backend(torch.zeros(2, 16), 4, 16, "fused")


@pytest.mark.parametrize("wanted", ["grouped", "blocks", "loop", "gathered", "dense", "reference"])
def test_an_explicit_experts_backend_is_kept(wanted: str) -> None:
    assert experts_backend(torch.zeros(2, 3), 4, 5, wanted) == wanted


def test_on_a_cpu_attention_is_sdpa_unless_asked_otherwise() -> None:
    q = torch.zeros(1, 1, 1, 4)
    assert attention_backend(q, q, q, None, "auto") == "sdpa"
    assert attention_backend(q, q, q, None, "reference") == "reference"


@pytest.mark.parametrize(
    ("rows", "choices", "grad", "compiling", "exporting", "want"),
    [
        (4, 16, False, True, False, "gathered"),
        (4, None, False, True, False, "gathered"),
        (4, 17, False, True, False, "blocks"),  # more choices than experts
        (0, 0, False, True, False, "loop"),
        (4, 16, True, True, False, "blocks"),  # its backward would add to whole stacks
        (4, 16, False, False, False, "loop"),
        (4, 16, False, True, True, "dense"),
    ],
)
def test_a_compiled_step_copies_the_experts_of_few_choices(
    rows: int,
    choices: int | None,
    grad: bool,
    compiling: bool,
    exporting: bool,
    want: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    monkeypatch.setattr(torch.compiler, "_is_exporting_flag", exporting)
    with torch.set_grad_enabled(grad):
        assert experts_backend(torch.zeros(rows, 12), 16, 8, "auto", choices=choices) == want


def test_one_row_is_summed_in_compiled_inference_only(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = torch.zeros(1, 1, 6), torch.zeros(1, 2, 6)
    with torch.no_grad():
        assert not summed(one)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        monkeypatch.setattr(torch.compiler, "_is_exporting_flag", False)
        assert summed(one)
        assert not summed(two)
        assert not summed(one[:, :0])
        with torch.autocast("cpu", torch.bfloat16):
            assert not summed(one)
        monkeypatch.setattr(torch.compiler, "_is_exporting_flag", True)
        assert not summed(one)
    monkeypatch.setattr(torch.compiler, "_is_exporting_flag", False)
    assert not summed(one)


def test_what_is_held_is_the_same_tensor() -> None:
    wide = torch.randn(3, 4, 5)
    for x in (wide, wide[1:, ::2, 1:3], wide.transpose(0, 2), wide[:1].expand(2, -1, -1)):
        kept = held(x)
        assert kept.data_ptr() == x.data_ptr()
        assert torch.equal(kept, x)
    x = wide.requires_grad_()
    (grad,) = torch.autograd.grad(held(x[1:]).square().sum(), x)
    assert torch.equal(grad, torch.cat((torch.zeros_like(wide[:1]), 2 * wide[1:])))


def test_a_weight_is_plain_unless_its_class_is_somebody_elses() -> None:
    class Packed(torch.Tensor):
        """Stands where a weight stood."""

    weight = torch.ones(2)
    assert plain(weight)
    assert plain(torch.nn.Parameter(weight))
    assert not plain(weight.as_subclass(Packed))
