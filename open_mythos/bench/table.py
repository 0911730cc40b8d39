"""Results as Markdown: what the pages show is generated here and never typed."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from open_mythos.bench.ours import Ours
from open_mythos.bench.peers.openmythos_05 import OpenMythos05
from open_mythos.bench.record import Document, Row
from open_mythos.errors import InputError


BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
FIRST_BEGIN, FIRST_END = "<!-- bench-headline:begin -->", "<!-- bench-headline:end -->"
NOTHING = "-"
ATTENTIONS = ("gqa", "mla")
PEER = OpenMythos05.name
# Suite, case, title, figure.
STEPS = (
    ("train", "step", "train, tokens/s", "tokens_per_second"),
    ("checkpoint", "checkpointed step", "train, loops checkpointed, tokens/s", "tokens_per_second"),
    ("prefill", "prompt", "prefill, tokens/s", "tokens_per_second"),
    ("prefill", "prompt compiled", "prefill, compiled, tokens/s", "tokens_per_second"),
    ("prefill", "prompt captured", "prefill, captured, tokens/s", "tokens_per_second"),
    ("decode", "batch 1", "decode, batch 1, ms/token", "step"),
    ("decode", "batch 8", "decode, batch 8, tokens/s", "tokens_per_second"),
    ("decode", "batch 64", "decode, batch 64, tokens/s", "tokens_per_second"),
)


def render(document: Document) -> str:
    """Every table that the document has rows for, with what was measured on what above them."""
    parts = [
        _steps(document, "R"),
        _others(document, "R"),
        _facts(document, "R"),
        _steps(document, "1b"),
        _cpu(document),
    ]
    return "\n\n".join(part for part in parts if part)


def headline(document: Document) -> str:
    """The tables that a first page has room for: steps of size R, and training beside others."""
    parts = [_steps(document, "R"), _others(document, "R")]
    return "\n\n".join(part for part in parts if part)


def insert(text: str, document: Document) -> str:
    """`text` with the tables between its markers: `bench` for all, `bench-headline` for the first.

    Raises:
        InputError: If it has neither pair of markers.
    """
    found = False
    for begin, end, made in ((BEGIN, END, render), (FIRST_BEGIN, FIRST_END, headline)):
        head, starts, rest = text.partition(begin)
        _, ends, tail = rest.partition(end)
        if starts and ends:
            found = True
            text = f"{head}{begin}\n{made(document)}\n{end}{tail}"
    if not found:
        raise InputError(f"the text lacks {BEGIN} and {END}; put both where the tables belong")
    return text


def results_files(folder: Path) -> list[Path]:
    """The benchmark's results in a folder, in the order of their names; later ones count."""
    return sorted(folder.glob("bench-*.json"))


# -- tables --------------------------------------------------------------------------------------


def _steps(document: Document, size: str) -> str:
    """Time steps with both attentions, the share of their floors, and 0.5.0 beside them."""
    against = any(r.who == PEER and r.size == size for r in _ok(document))
    rows = []
    for suite, case, title, figure in STEPS:
        ours = [document.find(suite, size, attn, case, Ours.name) for attn in ATTENTIONS]
        if not any(ours):
            continue
        theirs = [document.find(suite, size, attn, case, PEER) for attn in ATTENTIONS]
        if suite == "prefill":  # what it stands beside is neither compiled nor captured
            theirs = [document.find(suite, size, attn, "prompt", PEER) for attn in ATTENTIONS]
        if suite == "checkpoint":
            theirs = [document.find("train", size, attn, "step", PEER) for attn in ATTENTIONS]
        cells = [title, *(_measured(row, figure) for row in ours)]
        cells.append(_pair(_share(row) for row in ours))
        if against:
            cells.append(_pair(_number(_value(row, figure)) for row in theirs))
            pairs = zip(ours, theirs, strict=True)
            cells.append(_pair(_times(_speed(a, figure), _speed(b, figure)) for a, b in pairs))
        rows.append(cells)
    if not rows:
        return ""
    head = [_name(size), "GQA", "MLA", "share of floor"]
    head += [PEER, "times"] if against else []
    return f"{_where(document, size)}\n\n{_table(head, rows)}"


def _others(document: Document, size: str) -> str:
    """Training beside Hugging Face's models."""
    rows = []
    for row in _ok(document):
        if row.suite != "train" or row.size != size or not row.who.startswith("HF "):
            continue
        ours = document.find("train", size, row.attn, "step", Ours.name)
        rate = "tokens_per_second"
        rows.append(
            [
                f"{row.who}, {row.note}",
                _measured(row, rate),
                _number(_value(row, "peak_memory")),
                f"{_times(_value(ours, rate), _value(row, rate))} ({row.attn.upper()})",
            ]
        )
    head = ["training beside", "tokens/s", "peak GiB", "open_mythos"]
    return _table(head, rows) if rows else ""


def _facts(document: Document, size: str) -> str:
    """Single findings, a line each."""
    lines: list[str] = []
    for attn in ATTENTIONS:
        for suite, case, who, say in FACTS:
            row = document.find(suite, size, attn, case, who) or (
                document.find(suite, size, "", case, who) if attn == ATTENTIONS[0] else None
            )
            if row is not None:
                lines.append(f"- {f'{attn.upper()}: ' if row.attn else ''}{say(row)}.")
    return "\n".join(lines)


def _cpu(document: Document) -> str:
    """Training and decoding on a CPU, the better precision of each library."""
    found = [r for r in _ok(document) if r.suite == "cpu"]
    rows = []
    for case, attn in dict.fromkeys((r.case, r.attn) for r in found):
        same = [r for r in found if (r.case, r.attn) == (case, attn)]
        ours = _best(r for r in same if r.who.startswith(Ours.name))
        theirs = _best(r for r in same if r.who.startswith(PEER))
        if ours is not None:
            rate = [_value(row, "tokens_per_second") for row in (ours, theirs)]
            names = [
                f"{_number(_value(row, 'tokens_per_second'))}{_precision(row)}"
                for row in (ours, theirs)
            ]
            rows.append([f"{case}, {attn.upper()}", *names, _times(rate[0], rate[1])])
    if not rows:
        return ""
    head = ["CPU, tokens/s", "open_mythos", PEER, "times"]
    return f"{_where(document, found[0].size, 'cpu')}\n\n{_table(head, rows)}"


def _best(rows: Iterable[Row]) -> Row | None:
    return max(rows, key=lambda row: row.figures["tokens_per_second"].value, default=None)


def _precision(row: Row | None) -> str:
    return f" ({row.who.rsplit(' ', 1)[-1]})" if row is not None else ""


# -- sentences -----------------------------------------------------------------------------------


def _depth(row: Row) -> str:
    slower, new = row.figures["slower"].value, row.figures["recompiles"].value
    return (
        f"random depth 1 to 16 takes {100 * slower:+.1f} % against pinned depth of the same mean; "
        f"{new:.0f} graphs compiled after warm-up"
    )


def _moe(row: Row) -> str:
    forward, both = row.figures["forward_tflops"].value, row.figures["both_tflops"].value
    return (
        f"routed experts alone ({row.who}): {forward:.0f} TFLOP/s forward, {both:.0f} with backward"
    )


def _loops(row: Row) -> str:
    # Along lengths short enough for their attention to be the lesser part, time is not a line.
    timed = not row.case.startswith("length")
    parts = [f"time R² {row.figures['time_r2'].value:.4f}"] if timed else []
    if "memory_r2" in row.figures:
        parts.append(f"memory R² {row.figures['memory_r2'].value:.4f}")
    return f"straight line through {row.case.removesuffix(' line')}: {', '.join(parts)}"


def _experts(row: Row) -> str:
    return f"{row.case} at {row.note}: {100 * row.figures['more_time'].value:+.0f} % time"


def _truncated(row: Row) -> str:
    more = 100 * row.figures["more_memory"].value
    return f"loops {row.case.removeprefix('truncated ')}, {row.note}: {more:+.1f} % training memory"


def _accuracy(row: Row) -> str:
    error = row.figures["relative_error"].value
    return f"bf16 logits against float64 at {row.shape['loops']} loops: relative error {error:.1e}"


def _decode(row: Row) -> str:
    share = 100 * row.figures["same_tokens"].value
    return f"{row.case} ({row.who}): {share:.0f} % of {row.shape['tokens']} greedy tokens equal"


def _losses(row: Row) -> str:
    apart = row.figures["apart"].value
    return f"{row.case}: at most {apart:.1e} apart over {row.shape['steps']} steps"


FACTS: tuple[tuple[str, str, str, Callable[[Row], str]], ...] = (
    ("depth", "random against pinned", Ours.name, _depth),
    ("moe", "routed experts", "auto", _moe),
    ("moe", "routed experts", "auto compiled", _moe),
    ("growth", "loops line", Ours.name, _loops),
    ("growth", "length line", Ours.name, _loops),
    ("growth", "experts 8 to 256", Ours.name, _experts),
    ("growth", "truncated 4 to 64", Ours.name, _truncated),
    ("accuracy", "logits bfloat16", "experts auto", _accuracy),
    ("accuracy", "graph decode against eager decode", "bfloat16", _decode),
    ("accuracy", "fp32 losses, fast against plain", Ours.name, _losses),
)


# -- cells ---------------------------------------------------------------------------------------


def _ok(document: Document) -> list[Row]:
    return [row for row in document.rows.values() if row.status == "ok"]


def _value(row: Row | None, figure: str) -> float | None:
    if row is None or figure not in row.figures:
        return None
    return row.figures[figure].value


def _speed(row: Row | None, figure: str) -> float | None:
    """A rate: the figure itself, or one over it where it is a time."""
    value = _value(row, figure)
    return 1 / value if value and figure == "step" else value


def _number(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _measured(row: Row | None, figure: str) -> str:
    """The number, with TFLOP/s and memory where they were counted and training is meant."""
    text = _number(_value(row, figure))
    rate = _value(row, "tflops")
    if rate is not None and row is not None and row.suite in ("train", "checkpoint"):
        text += f" ({rate:.0f} TFLOP/s"
        peak = _value(row, "peak_memory")
        text += f", {peak:.1f} GiB)" if peak is not None and row.who == Ours.name else ")"
    return text


def _share(row: Row | None) -> str:
    share = _value(row, "share_of_floor")
    return NOTHING if share is None else f"{100 * share:.0f} %"


def _times(ours: float | None, theirs: float | None) -> str:
    """How many times as fast, from two rates."""
    if not ours or not theirs:
        return NOTHING
    return f"{ours / theirs:.3g}x"


def _pair(cells: Iterable[str]) -> str:
    return " / ".join(cells)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _name(size: str) -> str:
    return {"R": "config R", "1b": "mythos_1b"}.get(size, f"size {size}")


def _where(document: Document, size: str, suite: str | None = None) -> str:
    """Device, versions, commit and day of the newest rows shown."""
    rows = [r for r in _ok(document) if r.size == size and suite in (None, r.suite)]
    run = document.runs[max(row.run for row in rows)]
    git = run.get("git") or {}
    commit = f", commit {git['commit'][:7]}" if git.get("commit") else ""
    shape = next((r.shape for r in rows if r.who.startswith(Ours.name)), {})
    told = ", ".join(f"{shape[key]} {word}" for key, word in SHAPES if key in shape)
    threads = f", {run['threads']} threads" if suite == "cpu" else ""
    return (
        f"{run['device_name']}{threads}, torch {run['torch']}, {run['started'][:10]}{commit}"
        f"{f'; {told}' if told else ''}. Medians; higher is better except for ms."
    )


SHAPES = (("batch", "rows"), ("seq_len", "positions"), ("loops", "loops"))
