"""Measure the models that travel with the repository, and write their cards' tables.

    python benchmarks/model_cards.py            # measures (minutes on two cores), then writes
    python benchmarks/model_cards.py --tables   # writes the cards from the JSON alone

Text: perplexity of models/prose-23m on its held-out.txt. Tasks: accuracy of models/tasks-5m at the
trained difficulty and beyond it, ROWS fresh rows a cell, with loops from 8 to 64.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from open_mythos.bench.machine import about
from open_mythos.checkpoint.files import read_json, write_json
from open_mythos.cli.opening import open_checkpoint
from open_mythos.cli.sweep import text_curve, text_windows
from open_mythos.eval.accuracy import those_with_room
from open_mythos.eval.loop_curve import depth_map
from open_mythos.eval.text_judge import in_passes_of


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "model-cards.json"
PROSE, TASKS = ROOT / "models" / "prose-23m", ROOT / "models" / "tasks-5m"
TEXT_LOOPS = (1, 2, 4, 8, 16, 32)
TASK_LOOPS = (8, 16, 32, 64)
NAMES = ("words", "knowledge", "p-hop", "sums", "parity", "pointer")
BATCHES, ROWS = 6, 32
BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"


def measure() -> dict[str, Any]:
    """Both models' numbers."""
    opened = open_checkpoint(PROSE)
    assert opened.held_out is not None
    windows = text_windows(opened, str(opened.held_out))
    text = text_curve(opened, windows, TEXT_LOOPS, BATCHES)
    tasks = {}
    for name in NAMES:
        one = open_checkpoint(TASKS).on_task(name)
        assert one.recipe is not None
        task: Any = in_passes_of(one.recipe.data.build_task(seed=0), ROWS)
        wanted = (task.max_level, 2 * task.max_level, 4 * task.max_level)
        hard = those_with_room(task, wanted, one.model.cfg.max_seq_len)
        # p-hop and pointers are told how far to go by the loops, so that each has its own number.
        found = depth_map(one.model, task, hard, TASK_LOOPS, batches=1, name=name)
        tasks[name] = found.to_json() | {"chance": [task.chance_at(d) for d in hard]}
        print(name, tasks[name]["accuracy"], flush=True)
    return {"machine": about(torch.device("cpu"), [], None), "text": text.to_json(), "tasks": tasks}


def text_table(found: dict[str, Any]) -> str:
    lines = ["| loops | " + " | ".join(str(p["n_loops"]) for p in found["points"]) + " |"]
    lines.append("| --- |" + " --- |" * len(found["points"]))
    shown = [2.718281828459045 ** p["loss"] for p in found["points"]]
    lines.append("| perplexity | " + " | ".join(f"{ppl:.2f}" for ppl in shown) + " |")
    targets = found["points"][0]["n"]
    return "\n".join([*lines, "", f"On {targets:,} tokens of held-out.txt, 256 at a time."])


def task_table(found: dict[str, Any]) -> str:
    lines = [
        "| task | difficulty | " + " | ".join(f"{n} loops" for n in TASK_LOOPS) + " | chance |"
    ]
    lines.append("| --- | --- |" + " --- |" * (len(TASK_LOOPS) + 1))
    for name, cells in found.items():
        rows = zip(cells["difficulties"], cells["accuracy"], cells["chance"], strict=True)
        for difficulty, row, chance in rows:
            shown = " | ".join(f"{cell:.3f}" for cell in row)
            lines.append(f"| {name} | {difficulty} | {shown} | {chance:.3f} |")
    return "\n".join(lines)


def write(card: Path, table: str) -> None:
    """Put a table between a card's marks."""
    text = card.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    card.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", action="store_true", help="write the cards from the JSON alone")
    if not parser.parse_args().tables:
        torch.manual_seed(0)
        write_json(RESULTS, measure())
    found = read_json(RESULTS)
    write(PROSE / "README.md", text_table(found["text"]))
    write(TASKS / "README.md", task_table(found["tasks"]))


if __name__ == "__main__":
    main()
