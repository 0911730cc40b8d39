"""The tables of docs/interop.md are what its benchmarks wrote."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from open_mythos.interop.formats import HF, WAYS
from open_mythos.vllm.fit import FIELDS


ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "interop.md").read_text(encoding="utf-8")


def results(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))


def test_the_table_of_graphs_is_the_files() -> None:
    networks = results("graphs.json")["networks"]
    assert len(networks) >= 8
    for row in networks:
        cfg = row["config"]
        if "onnx" in row:
            near = (f"{row[form]['difference']:.0e}" for form in ("pt2", "onnx"))
            line = " | ".join([cfg["attn_type"], cfg["core_ffn"], cfg["readout"], *near])
            assert f"| {line} |" in PAGE


def test_the_table_of_losses_is_the_files() -> None:
    found = results("quantization-cpu.json")
    for loops, row in found["loss"].items():
        cells = [loops, f"{row['float32']['loss']:.4f}"]
        kinds = ("bfloat16", "int8", "int4")
        cells += [f"{row[kind]['loss_added']:+.4f}" for kind in kinds]
        cells += [f"{row[kind]['divergence']:.5f}" for kind in kinds]
        assert f"| {' | '.join(cells)} |" in PAGE


def test_the_page_names_every_format_and_every_field_that_vllm_is_asked_for() -> None:
    assert all(f"--format {form}" in PAGE for form in WAYS)
    assert HF not in WAYS
    for name, (value, _) in FIELDS.items():
        assert f"`{name}={value}`" in PAGE


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", PAGE))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / "docs" / target).exists()


def test_the_section_of_the_plugin_says_first_that_it_was_not_run() -> None:
    section = PAGE.split("## vLLM\n", 1)[1].strip()
    assert section.startswith("**This has not been run in vLLM.**")
