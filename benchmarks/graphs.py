"""Which networks export as a graph (torch.export) and as an ONNX file, made by exporting them.

    pip install "open-mythos[onnx]"
    python benchmarks/graphs.py --out benchmarks/results/graphs.json

Small random networks, two loops. Each graph is run at shapes that it was not recorded at, and its
logits are held against the network's own; what is refused is written down with the reason. The
tables of docs/interop.md are this file's. The first eight go both ways, the others, which have
the remaining parts of the loop, as graphs alone unless --all is given (ONNX takes minutes each on a
busy machine). Results are written after every network; what --out has already is not run again.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from open_mythos import MythosConfig, OpenMythos
from open_mythos.checkpoint.files import write_json
from open_mythos.errors import MythosError
from open_mythos.interop.graph import Checked, export_graph
from open_mythos.interop.onnx_file import export_onnx
from open_mythos.train.environment import environment


SIZES: dict[str, Any] = {
    "vocab_size": 97, "dim": 32, "n_heads": 4, "n_kv_heads": 2, "max_seq_len": 64,
    "max_loop_iters": 4, "prelude_layers": 1, "coda_layers": 1, "kv_lora_rank": 16,
    "q_lora_rank": 24, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "n_experts": 8, "n_shared_experts": 1, "n_experts_per_tok": 2, "expert_dim": 16,
    "act_threshold": 0.8,
}  # fmt: skip
LOOPS = 2
MAIN = [
    {"attn_type": attention, "core_ffn": core, "readout": readout}
    for attention in ("gqa", "mla")
    for core in ("dense", "moe")
    for readout in ("last", "act")
]
DENSE = {"attn_type": "gqa", "core_ffn": "dense", "readout": "last", "prelude_layers": 0}
OTHERS: list[dict[str, Any]] = [
    {**DENSE, "injection": "hyper", "core_layers": 2, "initial_state": "noise"},
    {**DENSE, "injection": "concat_linear", "block_norm": "pre_post", "coda_input": "norm"},
    {**DENSE, "injection": "lti_first", "input_matrix": True, "input_write": "euler"},
    {**DENSE, "injection": "none", "block_norm": "sandwich", "loop_norm": "post", "qk_norm": True},
    {**DENSE, "readout": "act_sum", "injection": "damped", "untied_attention": True},
    {**DENSE, "readout": "act_last", "halted": "freeze", "kv": "first", "attention_bias": True},
    {**DENSE, "readout": "act", "halted": "freeze", "core_ffn": "moe", "untied_router": True},
    {**DENSE, "attn_type": "mla", "kv": "last", "injection": "substep", "block_norm": "post"},
]
WAYS: dict[str, Callable[[OpenMythos, Path, int], Checked]] = {
    "pt2": export_graph,
    "onnx": export_onnx,
}


def network(fields: dict[str, Any]) -> OpenMythos:
    """A network whose parameters have all moved, so that no part is silent."""
    torch.manual_seed(0)
    model = OpenMythos(MythosConfig(**{**SIZES, **fields})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def measured(fields: dict[str, Any], folder: Path, forms: list[str]) -> dict[str, Any]:
    model, row = network(fields), {"config": fields}
    for form in forms:
        export = WAYS[form]
        path, begun = folder / f"model.{form}", time.perf_counter()
        try:
            found = export(model, path, LOOPS)
            row[form] = {
                "difference": found.difference,
                "scale": found.scale,
                "bytes": path.stat().st_size,
            }
        except MythosError as error:
            row[form] = {"refused": str(error)}
        row[form]["seconds"] = round(time.perf_counter() - begun, 1)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--all", action="store_true", help="every network as ONNX too")
    asked = parser.parse_args()
    kept = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    rows: list[dict[str, Any]] = kept.get("networks", [])
    head = {
        "environment": {**environment(torch.device("cpu"), 0), "command": None},
        "sizes": SIZES,
        "loops": LOOPS,
    }
    for fields in MAIN + OTHERS:
        forms = list(WAYS) if fields in MAIN or asked.all else ["pt2"]
        if any(row["config"] == fields and set(forms) <= set(row) for row in rows):
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measured(fields, Path(folder), forms))
        print(rows[-1], flush=True)
        write_json(asked.out, {**head, "networks": rows})


if __name__ == "__main__":
    main()
