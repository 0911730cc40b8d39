"""Results: the tables of the results pages, made of the JSON under benchmarks/results.

TABLES names them; a page asks for one by `<!-- results: NAME -->`. Nothing here holds a measured
number: a file that changes changes the page, and one that is gone stops the build.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from open_mythos.bench.record import load_all
from open_mythos.bench.table import render, results_files


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
NOTHING = "-"
STOPPED = "task, stopped at the trained loops"  # an arm of the demo
FAR = ("1", "4", "8", "16", "64", "256")  # hops shown of a long curve


def load(name: str) -> dict[str, Any]:
    """One file of results."""
    found: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return found


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def where(document: Mapping[str, Any], name: str) -> str:
    """One line under a table: the file, and of its run the machine, the day and the commit."""
    words = [f"[`{name}`](json/{name})"]
    env = document.get("environment") or document
    words += [str(env[key]) for key in ("device", "device_name") if env.get(key)]
    if env.get("torch"):
        words.append(f"torch {env['torch']}")
    if env.get("started"):
        words.append(str(env["started"])[:10])
    if env.get("git"):
        words.append(f"commit {env['git']['commit'][:7]}")
    return "\n\nFrom " + ", ".join(words) + "."


def files() -> str:
    """Every file of results: what it is, and on what and when it was measured."""
    rows = []
    for path in sorted(RESULTS.glob("*.json")):
        found = load(path.name)
        runs = found.get("runs") or [{}]
        env = found.get("environment") or {**runs[0], **found.get("about", {}), **found}
        what = str(found.get("what") or found.get("command") or env.get("command") or "")
        device = env.get("device_name") or env.get("device") or NOTHING
        what = what if len(what) <= 110 else what[:107] + "..."
        shown = what.replace("|", "\\|") or NOTHING
        link = f"[`{path.name}`](json/{path.name})"
        rows.append([link, shown, str(device), str(env.get("started", ""))[:10] or NOTHING])
    return table(["file", "what it is, or the command", "on", "day"], rows)


# -- tasks --------------------------------------------------------------------------------------


def demo() -> str:
    """Accuracy of the demo's pointers at each number of hops."""
    name = "demo-2cpu.json"
    found = load(name)
    accuracy = found["findings"]["accuracy"]
    hops = list(accuracy["task"])
    names = {
        "task": "`mythos`",
        "task-seed-design": "the seed's loop",
        STOPPED: "`mythos`, stopped",
    }
    rows = [[names.get(arm, arm), *(f"{at[h]:.3f}" for h in hops)] for arm, at in accuracy.items()]
    return table(["hops", *hops], rows) + where(found, name)


def demo_text() -> str:
    """Held-out perplexity of the demo's text at each number of loops."""
    name = "demo-2cpu.json"
    found = load(name)
    at = found["findings"]["text_perplexity"]
    return table(["loops", *at], [["perplexity", *(f"{p:.2f}" for p in at.values())]]) + where(
        found, name
    )


def pointer_16() -> str:
    """Accuracy of six designs at more hops than were trained, mean and worst seed."""
    name = "depth-suite-pointer-16.json"
    found = load(name)
    rows, seen = [], set()
    for part in ("three_seeds", "one_seed"):
        seeds = {c["design"]: 0 for c in found[part]["cells"]}
        for cell in found[part]["cells"]:
            seeds[cell["design"]] += 1
        for summary in found[part]["findings"]["summaries"]:
            design = summary["design"]
            if design in seen:
                continue
            seen.add(design)
            cells = [_mean_and_worst(summary["accuracy"][h]) for h in FAR]
            rows.append([f"`{design}`", str(seeds.get(design, 1)), *cells])
    return table(["design", "seeds", *FAR], rows) + where(found, name)


def suite() -> str:
    """The depth suite on two cores: what is answered at and beyond the trained difficulty."""
    name = "depth-suite-2cpu.json"
    found = load(name)
    rows = []
    for cell in found["findings"]["summaries"]:
        kinds = ", ".join(f"{kind} ({n})" for kind, n in cell["kinds"].items())
        trained = _trained(found, cell)
        hardest = list(cell["accuracy"])[-1]
        rows.append(
            [
                cell["task"],
                f"`{cell['design']}`",
                kinds,
                f"{trained}: {_mean_and_worst(cell['accuracy'][str(trained)])}",
                f"{hardest}: {_mean_and_worst(cell['accuracy'][hardest])}",
            ]
        )
    head = ["task", "design", "verdict (seeds)", "hardest trained", "hardest asked"]
    return table(head, rows) + where(found, name)


def _trained(found: Mapping[str, Any], cell: Mapping[str, Any]) -> int:
    """The hardest difficulty of the training of a task and design."""
    for one in found["cells"]:
        if (one["task"], one["design"]) == (cell["task"], cell["design"]):
            return int(one["trained"]["difficulty"])
    raise KeyError(cell["task"])


def _mean_and_worst(at: Mapping[str, float]) -> str:
    mean, least = f"{at['mean']:.3f}", f"{at['least']:.3f}"
    return mean if mean == least else f"{mean} ({least})"


# -- text ---------------------------------------------------------------------------------------


def text_prose() -> str:
    """Perplexity of designs after four epochs of prose, by loops."""
    name = "depth-text-4-epochs.json"
    found = load(name)
    loops = ("1", "2", "4", "8", "16", "64")
    rows = [
        [
            f"`{arm['arm']}`",
            f"{arm['parameters'] / 1e6:.1f}M",
            f"{arm['mean_loops']:.0f}",
            *(_or_nothing(arm["perplexity"], n) for n in loops),
            f"{arm['training_loss']:.2f}",
        ]
        for arm in found["arms"]
    ]
    head = ["arm", "parameters", "mean loops", *loops, "training loss"]
    return table(head, rows) + where(found, name)


def text_first_look() -> str:
    """Perplexity at the mean depth of all arms of the first look, a table for each setting."""
    name = "depth-text-first-look.json"
    found = load(name)
    parts = [f"{_sentence(found['what'])}"]
    for number in found["rounds"]:
        rows = []
        for arm in number["arms"]:
            at = arm["perplexity"]
            most = list(at)[-1]
            cells = [_or_nothing(at, n) for n in ("1", "8")]
            rows.append(
                [f"`{arm['arm']}`", f"{arm['parameters'] / 1e6:.1f}M", *cells, f"{at[most]:.2f}"]
            )
        head = ["arm", "parameters", "1 loop", "8 loops", "most loops"]
        parts.append(f"**{number['setting']}**\n\n" + table(head, rows))
    return "\n\n".join(parts) + where(found, name)


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _or_nothing(at: Mapping[str, float], loops: str) -> str:
    return f"{at[loops]:.2f}" if loops in at else NOTHING


def text_120m() -> str:
    """Held-out loss of text-120m at every evaluation, by loops."""
    name = "text-120m-h100.json"
    found = load(name)
    loops = [k.rpartition("_")[2] for k in found["evaluations"][-1] if "loss_at_" in k]
    rows = []
    for one in found["evaluations"]:
        cells = [f"{one[f'validation/loss_at_{n}']:.3f}" for n in loops]
        rows.append([f"{one['step']:,}", *cells])
    return table(["step", *(f"{n} loops" for n in loops)], rows) + where(found, name)


def text_4m() -> str:
    """Held-out loss of ten arrangements of 4M parameters, by loops."""
    name = "text-4m-h100.json"
    found = load(name)
    loops = ("1", "2", "6", "12", "32")
    rows = []
    for one in found["rows"]:
        cells = [_loss_at(one["eval"], n) for n in loops]
        rows.append(
            [f"`{one['name']}`", f"{one['params'] / 1e6:.2f}M", *cells, _settings(one["over"])]
        )
    head = ["arm", "parameters", *(f"{n} loops" for n in loops), "over the base"]
    return f"{_sentence(found['what'])}\n\n" + table(head, rows) + where(found, name)


def _loss_at(at: Mapping[str, float], loops: str) -> str:
    value = at.get(f"validation/loss_at_{loops}")
    return NOTHING if value is None else f"{value:.3f}"


def _settings(over: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key}={value}`" for key, value in over.items()) or NOTHING


# -- speed and the rest -------------------------------------------------------------------------


def bench() -> str:
    """All tables of `open-mythos bench`."""
    return render(load_all(results_files(RESULTS)))


def ranks() -> str:
    """Training on one and on two GPUs."""
    name = "ranks-h100-x2.json"
    found = load(name)
    rows = []
    for layout, one in found["layouts"].items():
        if "failed" in one:
            rows.append([layout, NOTHING, NOTHING, NOTHING, one["failed"]])
            continue
        base = found["layouts"]["one"]["tokens_per_second"]
        speed = one["tokens_per_second"]
        rows.append(
            [layout, f"{speed:,.0f}", f"{speed / base:.2f}", f"{one['memory_gib']:.1f}",
             " ".join(f"`{s}`" for s in one["settings"]) or NOTHING]
        )  # fmt: skip
    head = ["layout", "tokens/s", "over one GPU", "GiB", "settings"]
    return table(head, rows) + where(found, name)


def speculation() -> str:
    """Drafts by few loops: what is kept, and what it is worth."""
    name = "speculation-cpu.json"
    found = load(name)
    rows = []
    for one in found["rows"]:
        draft = one["draft"]
        if draft is None:
            continue
        rows.append(
            [f"{draft['loops']} x {draft['tokens']}", draft["rule"], f"{one['temperature']:g}",
             f"{one['kept_share']:.0%}", f"{one['speedup_cpu']:.2f}",
             f"{one['tokens_per_pass']:.2f}"]
        )  # fmt: skip
    head = ["loops x tokens", "rule", "temperature", "kept", "speed", "tokens a pass"]
    return table(head, rows) + where(found["about"], name)


def balance() -> str:
    """How far bias steps mend a collapsed router."""
    name = "balance-cpu.json"
    found = load(name)
    rows = [
        ["skewed" if one["skewed"] else "as drawn", f"{one['bias_step']:g}", f"{one['peak']:.2f}",
         str(one["dead"]), f"{one['peak_of_worst_loop']:.2f}", f"{one['validation_loss']:.3f}",
         f"{one['penalty']:+.2%}"]
        for one in found["summary"]
    ]  # fmt: skip
    head = ["start", "bias step", "peak", "dead", "worst loop's peak", "loss", "penalty"]
    return table(head, rows) + where(found, name)


def laws() -> str:
    """How often 95 % intervals held the constants that made the points."""
    name = "laws.json"
    found = load(name)
    rows = []
    for one in found["cases"]:
        held = ", ".join(f"{key} {share:.2f}" for key, share in one["held"].items())
        rows.append([one["case"], f"{one['noise']:.1%}", str(one["points"]), held])
    return table(["law, points", "noise", "points", "held"], rows) + where(found, name)


def prepare() -> str:
    """What preparing text costs."""
    name = "data-prepare.json"
    found = load(name)
    rows = [
        [f"`{one['command'].partition('--tokenizer ')[2]}`", f"{one['text_mb']:,.0f}",
         f"{one['mb_per_cpu_second']:.1f}", f"{one['peak_rss_mb']:,.0f}"]
        for one in found["runs"]
    ]  # fmt: skip
    head = ["tokenizer", "MB of text", "MB per CPU second", "peak MB of memory"]
    return table(head, rows) + where(found["runs"][0], name)


def survive() -> str:
    """Runs that were killed, against undisturbed ones."""
    rows = []
    for name in ("survive-1.json", "survive-2.json"):
        one = load(name)
        same = "equal" if one["same_tensors"] and one["same_losses"] else "**differ**"
        saves = sum("in a save" in kill for kill in one["kills"])
        rows.append(
            [f"[`{name}`](json/{name})", str(one["ranks"]), f"{len(one['kills'])} ({saves})",
             str(one["steps"]), f"{one['tensors']} tensors and all losses {same}"]
        )  # fmt: skip
    return table(["file", "ranks", "kills (in a save)", "steps", "at the end"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "files": files,
    "demo": demo,
    "demo-text": demo_text,
    "pointer-16": pointer_16,
    "suite": suite,
    "text-prose": text_prose,
    "text-first-look": text_first_look,
    "text-120m": text_120m,
    "text-4m": text_4m,
    "bench": bench,
    "ranks": ranks,
    "speculation": speculation,
    "balance": balance,
    "laws": laws,
    "prepare": prepare,
    "survive": survive,
}
