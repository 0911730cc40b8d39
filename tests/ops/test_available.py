"""The report says what the ops do: its picks are compared to what really runs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from open_mythos.config.mythos import MythosConfig
from open_mythos.generate.static import Decoder
from open_mythos.model.mythos import OpenMythos
from open_mythos.ops import (
    attend,
    available,
    backend,
    decode,
    experts,
    few,
    head_loss,
    projections,
    routing,
    rows,
    sample,
    store,
)


CPU, CUDA = torch.device("cpu"), torch.device("cuda")
REAL_SAMPLE = available._sample
HOLDERS = (backend, decode, few, head_loss, rows)  # each asks for Triton by itself
TINY = {
    "dim": 16, "n_heads": 2, "n_kv_heads": 1, "vocab_size": 11, "n_experts": 4, "expert_dim": 16,
    "max_seq_len": 16, "max_loop_iters": 2, "attn_type": "gqa", "prelude_layers": 1,
    "coda_layers": 1,
}  # fmt: skip


def triton_is(monkeypatch: pytest.MonkeyPatch, here: bool) -> None:
    for module in HOLDERS:
        monkeypatch.setattr(module, "HAS_TRITON", here)


@pytest.fixture(autouse=True)
def uncut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no CUDA, tensors can pretend to lie on it, but not be sliced.

    `sample_backend` asks about a slice, so there its question is put to a narrow tensor instead.
    """
    if not torch.cuda.is_available():
        monkeypatch.setattr(available, "_sample", lambda p: rows.rows_backend(p.tensor(1, 1)))


def picked(cfg: MythosConfig, device: torch.device, dtype: str = "bfloat16") -> dict[str, str]:
    return {choice.op: choice.picked[dtype] for choice in available.choices(cfg, device)}


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
@pytest.mark.parametrize("triton", [True, False])
@pytest.mark.parametrize("attn", ["gqa", "mla"])
@pytest.mark.parametrize("dim", [2048, 2056, 2052])  # multiples of 16, of 8, of 4
def test_what_is_picked_is_offered_and_lacks_nothing(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, triton: bool, attn: Any, dim: int
) -> None:
    if triton and device == CUDA:
        pytest.importorskip("triton")  # the report looks up the kernel that would run
    triton_is(monkeypatch, triton)
    cfg = MythosConfig(attn_type=attn, dim=dim, n_heads=2, n_kv_heads=2)
    for choice in available.choices(cfg, device):
        ways = {way.name: way.lacks for way in choice.ways}
        assert len(ways) == len(choice.ways)
        assert set(choice.picked) == {"bfloat16", "float32"}
        assert all(ways[name] is None for name in choice.picked.values()), choice


def test_without_cuda_or_triton_no_kernel_is_picked_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    triton_is(monkeypatch, False)
    for device in (CPU, CUDA):
        found = available.choices(MythosConfig(), device)
        lacks = {w.name: w.lacks for choice in found for w in choice.ways if w.lacks}
        assert lacks["triton"] == lacks["fused"] == "triton is not installed"
        assert not {"triton", "fused", "few"} & set(picked(MythosConfig(), device).values())
    triton_is(monkeypatch, True)
    for choice in available.choices(MythosConfig(), CPU):
        lacks = {way.name: way.lacks for way in choice.ways}
        assert lacks.get("triton", "needs CUDA") == lacks.get("few", "needs CUDA") == "needs CUDA"


def test_a_gpu_with_triton_runs_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    triton_is(monkeypatch, True)
    found = picked(MythosConfig(), CUDA)
    assert set(found.values()) == {
        "sdpa", "triton", "in place", "fused", "few", "chunked, triton", "cuda graph"
    }  # fmt: skip


def test_missing_flash_and_grouped_matmul_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "HAS_FLASH", False)
    monkeypatch.setattr(backend, "has_grouped", lambda: False)
    cfg = MythosConfig(attn_type="gqa")
    lacks = {w.name: w.lacks or "" for c in available.choices(cfg, CPU) for w in c.ways}
    assert "flash-attn is not installed" in lacks["flash"]
    assert "grouped_mm" in lacks["grouped"]
    assert picked(cfg, CPU)["experts, one new token"] == "loop"
    monkeypatch.setattr(backend, "HAS_FLASH", True)
    assert picked(cfg, CUDA)["attention, whole texts"] == "flash"
    assert picked(MythosConfig(attn_type="mla"), CUDA)["attention, whole texts"] == "sdpa"


def test_asking_takes_no_memory() -> None:
    """Experts of 4 TB: any tensor that were real would end this."""
    cfg = MythosConfig(dim=2**17, n_heads=64, n_experts=1024, expert_dim=2**12)
    assert picked(cfg, CPU)["experts, 32,768 rows"] == "blocks"


# -- the picks, against what a pass calls ----------------------------------------------------------


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the implementations that ran."""
    names: list[str] = []

    def spy(module: Any, attribute: str, name: str) -> None:
        real: Callable[..., Any] = getattr(module, attribute)

        def noting(*args: Any, **kwargs: Any) -> Any:
            names.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(module, attribute, noting)

    spy(attend, "_sdpa", "sdpa")
    spy(experts, "_grouped", "grouped")
    spy(experts, "_blocks", "blocks")
    spy(experts, "_loop", "loop")
    spy(head_loss, "score_rows_plain", "chunked, plain")
    spy(few, "linear_plain", "torch")
    spy(rows, "add_norm_plain", "plain")
    return names


def test_on_a_cpu_drawing_is_asked_about_too() -> None:
    cpu = available.Probe(MythosConfig(), CPU, torch.float32)
    assert REAL_SAMPLE(cpu) == picked(MythosConfig(), CPU)["drawing, top-k"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_on_a_cpu_the_picks_are_what_a_pass_calls(called: list[str], dtype: torch.dtype) -> None:
    cfg = MythosConfig(**TINY)
    word = str(dtype).removeprefix("torch.")
    report = picked(cfg, CPU, word)
    model = OpenMythos(cfg).to(dtype)
    ids = torch.arange(8).view(1, 8)

    model(ids)
    whole = {report["attention, whole texts"], report["experts, 32,768 rows"]}
    others = {report["linear maps, one new token"], "plain"}
    assert set(called) == whole | others
    called.clear()
    features: Tensor = torch.randn(6, cfg.dim, dtype=dtype)
    head_loss.head_loss(features, model.head.weight, torch.arange(6))
    assert called == [report["head and its loss"]]
    called.clear()
    decoder = Decoder(model.eval(), 1, 16)
    assert report["generation"] == ("eager" if decoder.graph is None else "cuda graph")
    decoder.prefill(ids)
    called.clear()
    decoder.step()
    token = {report["attention, one new token"], report["experts, one new token"]}
    assert set(called) == token | others


def test_on_a_gpu_the_picks_are_what_the_ops_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ops themselves, called with tensors that say they lie on a GPU, reach for the kernels."""
    pytest.importorskip("triton")
    triton_is(monkeypatch, True)
    report = picked(MythosConfig(**TINY), CUDA)
    with FakeTensorMode():
        x = torch.empty(1, 16, device="cuda", dtype=torch.bfloat16)
        assert few.few_rows(x, x) is (report["feed-forward, one new token"] == "triton")
        kept = torch.empty(1, 16, 1, 8, device="cuda", dtype=torch.bfloat16)
        told = report["cache, one new token"]
        assert store.store_backend(x.view(1, 1, 16), stores=(kept, kept)) == told
        assert sample.sample_backend(x, x.float(), 50, 0.9, 0.0) == "plain"
        if torch.cuda.is_available():
            told = report["drawing, top-k"]
            assert sample.sample_backend(x, x.float(), 50, 1.0, 0.0) == told
        assert rows.rows_backend(x, x) == report["norms, SwiGLU, rotary"]
        assert rows.rows_backend(x, x, x) == report["end of a loop"]
        told = report["routing, 32,768 rows"]
        assert routing.routes_backend(x, torch.empty(16, device="cuda")) == told
        assert projections.whole_heads(x, x) is (report["heads of latent attention"] == "triton")
        told = report["the same, a prompt of 32,768"]
        many = x.expand(projections.MANY_ROWS, -1)
        assert projections.heads_backend(x) == "triton" != told
        assert projections.heads_backend(many) == told
        assert projections.one_pass(x.requires_grad_()) is (report["their gradients"] == "triton")
        assert rows.rows_backend(x) == "plain"  # now that a gradient is asked for
