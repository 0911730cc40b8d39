"""Tables from rows: the right numbers beside each other, and nothing invented."""

from pathlib import Path
from typing import Any

import pytest

from open_mythos.bench.record import Document, Figure, Row
from open_mythos.bench.table import (
    BEGIN,
    END,
    FIRST_BEGIN,
    FIRST_END,
    headline,
    insert,
    render,
    results_files,
)
from open_mythos.errors import InputError


OURS, PEER = "open_mythos", "open-mythos 0.5.0"
RUN = {
    "device_name": "Chip X",
    "torch": "2.99",
    "started": "2026-01-02T03:04:05+00:00",
    "git": {"commit": "0123456789abcdef", "changed": False},
    "threads": 2,
}
UNITS = {"step": "ms", "tokens_per_second": "tokens/s", "tflops": "TFLOP/s", "peak_memory": "GiB"}


def document(*rows: Row) -> Document:
    found = Document()
    found.begin(RUN)
    for row in rows:
        found.put(row)
    return found


def row(suite: str, attn: str, case: str, who: str = OURS, **figures: Any) -> Row:
    shape = figures.pop("shape", {"batch": 32, "seq_len": 1024, "loops": 8})
    size, note = figures.pop("size", "R"), figures.pop("note", "")
    made = {name: Figure(value, UNITS.get(name, "1")) for name, value in figures.items()}
    return Row(
        suite=suite, size=size, attn=attn, case=case, who=who, figures=made, shape=shape, note=note
    )


def line(text: str, start: str) -> str:
    return next(found for found in text.splitlines() if found.startswith(start))


def test_nothing_measured_is_nothing_shown() -> None:
    assert render(Document()) == ""


def test_a_rate_is_compared_by_its_quotient_and_a_time_by_its_inverse() -> None:
    text = render(
        document(
            row("train", "gqa", "step", tokens_per_second=300_000, tflops=351.0, peak_memory=19.5),
            row("train", "gqa", "step", PEER, tokens_per_second=20_000, tflops=23.0),
            row("decode", "gqa", "batch 1", step=0.5, tokens_per_second=2000),
            row("decode", "gqa", "batch 1", PEER, step=50.0, tokens_per_second=20),
        )
    )
    assert line(text, "| train, tokens/s") == (
        "| train, tokens/s | 300,000 (351 TFLOP/s, 19.5 GiB) | - | - / - | 20,000 / - | 15x / - |"
    )
    assert line(text, "| decode, batch 1").endswith("| 0.5 | - | - / - | 50 / - | 100x / - |")
    assert "Chip X, torch 2.99, 2026-01-02, commit 0123456; 32 rows, 1024 positions, 8" in text


def test_shares_of_the_floor_are_percentages_of_both_attentions() -> None:
    text = render(
        document(
            row("prefill", "gqa", "prompt", tokens_per_second=1e6, share_of_floor=0.512),
            row("prefill", "mla", "prompt", tokens_per_second=2e6, share_of_floor=0.4),
        )
    )
    assert line(text, "| prefill") == "| prefill, tokens/s | 1,000,000 | 2,000,000 | 51 % / 40 % |"
    assert PEER not in text


def test_hugging_face_is_compared_with_its_own_attention() -> None:
    text = render(
        document(
            row("train", "mla", "step", tokens_per_second=300.0, tflops=1.0),
            row("train", "mla", "step", "HF DeepSeek", tokens_per_second=200.0, note="12 layers"),
        )
    )
    assert line(text, "| HF DeepSeek, 12 layers") == (
        "| HF DeepSeek, 12 layers | 200 | - | 1.5x (MLA) |"
    )


def test_findings_become_sentences() -> None:
    text = render(
        document(
            row("depth", "gqa", "random against pinned", slower=0.0123, recompiles=0),
            row("moe", "", "routed experts", "auto", forward_tflops=400.0, both_tflops=410.0),
            row("growth", "gqa", "loops line", time_r2=0.9991, memory_r2=0.999),
            row(
                "accuracy",
                "mla",
                "logits bfloat16",
                "experts auto",
                relative_error=0.0123,
                shape={"loops": 16},
            ),
        )
    )
    assert "- GQA: random depth 1 to 16 takes +1.2 % against" in text
    assert "- routed experts alone (auto): 400 TFLOP/s forward, 410 with backward." in text
    assert "time R² 0.9991, memory R² 0.9990" in text
    assert "- MLA: bf16 logits against float64 at 16 loops: relative error 1.2e-02." in text
    assert text.count("routed experts alone") == 1


def test_on_a_cpu_each_library_shows_its_better_precision() -> None:
    size = {"size": "cpu"}
    text = render(
        document(
            row("cpu", "gqa", "train dim 256", f"{OURS} fp32", tokens_per_second=900.0, **size),
            row("cpu", "gqa", "train dim 256", f"{OURS} bf16", tokens_per_second=500.0, **size),
            row("cpu", "gqa", "train dim 256", f"{PEER} fp32", tokens_per_second=300.0, **size),
        )
    )
    assert line(text, "| train dim 256") == (
        "| train dim 256, GQA | 900 (fp32) | 300 (fp32) | 3x |"
    )
    assert "2 threads" in text


def test_a_failed_row_is_not_shown() -> None:
    failed = Row(suite="train", size="R", attn="gqa", case="step", who=OURS, status="error")
    assert render(document(failed)) == ""


def test_only_what_stands_between_the_markers_changes() -> None:
    some, none = document(row("train", "step", "gqa", OURS, tokens_per_second=9.0)), Document()
    text = f"before\n{BEGIN}\n\n{END}\nbetween\n{FIRST_BEGIN}\n\n{FIRST_END}\nafter\n"
    filled = insert(text, some)
    assert filled == (
        f"before\n{BEGIN}\n{render(some)}\n{END}\n"
        f"between\n{FIRST_BEGIN}\n{headline(some)}\n{FIRST_END}\nafter\n"
    )
    assert headline(some) in render(some)
    assert insert(filled, none) == text
    with pytest.raises(InputError, match="lacks"):
        insert(f"no end: {BEGIN}", some)


def test_results_are_found_by_their_names(tmp_path: Path) -> None:
    for name in ("bench-b.json", "bench-a.json", "demo.json", "bench-c.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in results_files(tmp_path)] == ["bench-a.json", "bench-b.json"]
