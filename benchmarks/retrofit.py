r"""A pretrained model made to loop: before, after surgery and after healing, at 1 to 8 loops.

    open-mythos data prepare TEXT --tokenizer HF_DIR --out DATA
    python benchmarks/retrofit.py HF_DIR --data DATA --out runs/retrofit \
        --results benchmarks/results/retrofit.json
    python benchmarks/retrofit.py HF_DIR --no-heal --items 8 --loops 1,2    # look at surgery alone
    python benchmarks/retrofit.py HF_DIR --no-heal --arms none:10-10-10,carry0.1,substep:14-2-14
    python benchmarks/retrofit.py HF_DIR --no-heal --arms fold0:9-3-9,fold64:9-3-9,foldfull:9-3-9

"before" is the source itself: all its layers, run once by our own blocks (tests/retrofit holds
those against transformers). Every arm is a cut and a start; --no-heal leaves out training. Scores
are bits per byte of held-out text (of DATA, if it is given, and of the bundled plays) and the
offline choice tasks, by this library's own scorers. An arm that is healed is a run folder, which
goes on where it was stopped. Results are written after every arm; arms that --results has already
are not run again, so that the same command goes on after a stop.

An arm is NAME or NAME:PRELUDE-CORE-CODA. NAME is one of
    carryX      lti_first, that share of h
    concatX     concat_linear, likewise
    none        the core's own output
    substep     training-free: measured as it is, the core's step cut by the number of loops
    damped      the core's step cut by --mean, whatever the number of loops; healed like the others
    foldR       layers between prelude and coda folded into the core, loops corrected by rank R
                ("full": all of it); foldRfirst, foldRlast, foldRstep: the core's weights, not their
                average. Healed at the number of loops that is the source.
    source      the source itself, healed at one loop: what the text alone does
What follows a "+" is a setting of the recipe: carry0.5:8-8-8+optim.lr=1e-4.
"""

import argparse
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from open_mythos.checkpoint.files import read_json, write_json
from open_mythos.config.budget import flops_per_token, parameters
from open_mythos.config.overrides import configure, to_plain
from open_mythos.data.prepared import open_prepared
from open_mythos.data.tokenizer import Tokenizer, tokenizer_from_folder
from open_mythos.eval.bits_per_byte import score_texts
from open_mythos.eval.offline_scores import score_offline
from open_mythos.model.mythos import OpenMythos
from open_mythos.retrofit.folder import save_retrofit
from open_mythos.retrofit.source import Source, open_source
from open_mythos.retrofit.surgery import Plan, retrofit
from open_mythos.train.environment import environment
from open_mythos.train.presets import recipe
from open_mythos.train.starting import starting_recipe
from open_mythos.train.trainer import train


TASKS = ("mythos_plays", "mythos_lines", "mythos_steps")
CUT = (8, 8, 8)


@dataclass(frozen=True)
class Arm:
    """One way to make a loop of the source.

    Attributes:
        name: As it was asked for.
        plan: Cut and start.
        settings: Of the recipe, beside those of all arms.
        once: Whether it is run at one loop alone.
    """

    name: str
    plan: Plan
    settings: tuple[str, ...] = ()
    once: bool = False


def arm(word: str, loops: int, max_seq_len: int, source: Source) -> Arm:
    """What NAME:PRELUDE-CORE-CODA+KEY=VALUE stands for."""
    named, *settings = word.split("+")
    kind, _, parts = named.partition(":")
    prelude, core, coda = (int(n) for n in parts.split("-")) if parts else CUT
    how: dict[str, Any] = {"start": "none"}
    fold = re.fullmatch(r"fold(\d+|full)(average|first|last|step)?", kind)
    if fold:
        rank, shared = fold.groups()
        loops = (source.n_layers - prelude - coda) // core
        how["lora_rank"] = source.fields["dim"] if rank == "full" else int(rank)
        how["shared"] = shared or "average"
        settings = ["depth.kind=fixed", f"depth.mean={loops}", *settings]
    elif kind == "source":
        prelude, core, coda, loops = 0, source.n_layers, 0, 1
        settings = ["depth.kind=fixed", "depth.mean=1", *settings]
    elif kind == "damped":
        how = {"start": "substep"}
        settings = ["depth.curriculum_steps=0", *settings]
    elif kind.startswith(("carry", "concat")):
        start = "lti_first" if kind.startswith("carry") else "concat_linear"
        how = {"start": start, "carry": float(kind.removeprefix("carry").removeprefix("concat"))}
    elif kind == "substep":
        how = {"start": "substep"}
    elif kind != "none":
        raise SystemExit(f"there is no arm {kind!r}; see --help")
    plan = Plan(prelude=prelude, core=core, coda=coda, loops=loops, max_seq_len=max_seq_len, **how)
    return Arm(word, plan, tuple(settings), once=kind == "source")


class Scorer:
    """The same texts and questions for every network."""

    def __init__(self, told: argparse.Namespace, tokenizer: Tokenizer) -> None:
        self.told, self.tokenizer = told, tokenizer
        self.texts = held_out_texts(told.data, told.tokens) if told.data else []

    def __call__(self, model: OpenMythos, loops: Sequence[int]) -> dict[str, dict[str, float]]:
        """Number of loops -> every score."""
        found: dict[str, dict[str, float]] = {}
        table = score_offline(
            model, self.tokenizer, self.told.tasks, loops, limit=self.told.items or None
        )
        for task, by in table.to_json().items():
            for metric, values in by.items():
                for n, value in values.items():
                    found.setdefault(n, {})[f"{task}/{metric}"] = value
        for n in loops if self.texts else ():
            score = score_texts(model, self.tokenizer, self.texts, n)
            bits = {"held_out/bits_per_byte": score.bits_per_byte or 0.0}
            found[str(n)] = found.get(str(n), {}) | bits
        return found


def held_out_texts(folder: Path, most: int) -> list[str]:
    """Documents that DATA holds out: `most` tokens in all, of one up to a quarter of that."""
    prepared = open_prepared(folder)
    tokenizer, tokens = prepared.tokenizer(), prepared.tokens("validation")
    starts = [int(n) for n in prepared.starts("validation")]
    texts, left = [], most
    for start, end in pairwise([*starts, tokens.size]):
        count = min(end - start, left, most // 4)
        texts.append(tokenizer.decode(tokens[start : start + count]))
        left -= count
        if left <= 0:
            break
    return texts


def heal(word: Arm, start: Path, told: argparse.Namespace) -> tuple[OpenMythos, dict[str, Any]]:
    """The network after the recipe `retrofit`, and how the run went."""
    base = starting_recipe(replace(recipe("retrofit"), init_from=str(start)))
    chosen = configure(base, None, [*settings(told), *word.settings])
    began = time.perf_counter()
    result = train(chosen, told.out / folder_name(word.name), resume="auto")
    if result.status != "finished":
        raise SystemExit(result.message)
    story = {
        "recipe": to_plain(chosen),
        "tokens": chosen.steps * chosen.data.batch_size * chosen.data.seq_len,
        "seconds": round(time.perf_counter() - began, 1),
        "training_loss": None if result.record is None else result.record.loss,
    }
    return OpenMythos.from_pretrained(result.checkpoint), story


def settings(told: argparse.Namespace) -> list[str]:
    """What of the command line is the recipe's."""
    given = [f"data.corpus={told.data}", f"steps={told.steps}", f"device={told.device}"]
    given += [f"depth.curriculum_steps={told.steps // 2}", f"data.seq_len={told.seq_len}"]
    given += [f"depth.mean={told.mean}", f"depth.max={2 * told.mean}", "eval_every=0"]
    if told.device.startswith("cuda"):
        given += ["engine.precision=bf16", "engine.compile=true"]
    return [*given, *told.settings]


def folder_name(word: str) -> str:
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in word)


def describe(model: OpenMythos, loops: Sequence[int], length: int) -> dict[str, Any]:
    cost = {str(n): flops_per_token(model.cfg, n, length).total for n in loops}
    return {"parameters": parameters(model.cfg).total, "flops_per_token": cost}


def measure(word: Arm, told: argparse.Namespace, scorer: Scorer) -> dict[str, Any]:
    """Everything about one arm."""
    free, loops = word.name.startswith("substep"), [1] if word.once else told.loops
    if free:  # a network per number of loops: the step is cut by it
        scores: dict[str, dict[str, float]] = {}
        for n in loops:
            made = retrofit(told.source, replace(word.plan, loops=n))
            scores |= scorer(made.model.to(told.device), [n])
    else:
        made = retrofit(told.source, word.plan)
        scores = scorer(made.model.to(told.device), loops)
    found = {
        "arm": word.name,
        "dropped": list(made.cut.dropped),
        **describe(made.model, loops, told.seq_len),
        "surgery": scores,
    }
    if told.heal and not free:
        start = told.out / folder_name(word.name) / "start"
        if not (start / "config.json").is_file():
            save_retrofit(retrofit(told.source, word.plan), start)
        del made
        model, story = heal(word, start, told)
        found |= {"healing": story, "healed": scorer(model.to(told.device), loops)}
    return found


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="HF_DIR")
    parser.add_argument("--data", type=Path, help="prepared folder, by the source's tokenizer")
    parser.add_argument("--arms", default="carry0.5,carry0.1,none,substep")
    parser.add_argument("--loops", default="1,2,3,4,5,6,7,8")
    parser.add_argument("--mean", type=int, default=4, help="loops of training, on average")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--items", type=int, default=0, help="of every offline task; 0: all")
    parser.add_argument("--tokens", type=int, default=65_536, help="of DATA's held-out text")
    parser.add_argument("--tasks", default=",".join(TASKS), help="offline tasks, or nothing")
    parser.add_argument("--heal", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/retrofit"))
    parser.add_argument("--results", type=Path)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of every healing")
    told = parser.parse_intermixed_args()
    told.loops = [int(n) for n in told.loops.split(",")]
    told.tasks = [name for name in told.tasks.split(",") if name]
    if told.heal and told.data is None:
        parser.error("healing needs --data; or say --no-heal")
    return told


def main() -> None:
    told = asked()
    results = told.results or told.out / "results.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    source = open_source(told.source)
    window = min(source.fields["max_seq_len"], 2 * told.seq_len)
    scorer = Scorer(told, tokenizer_from_folder(told.source))
    document = read_json(results) if results.is_file() else begin(told, source, window, scorer)
    print("before", document["before"]["scores"], flush=True)
    known = {found["arm"] for found in document["arms"]}
    for word in told.arms.split(","):
        if word in known:
            continue
        found = measure(arm(word, told.mean, window, source), told, scorer)
        document["arms"].append(found)
        write_json(results, document)
        for stage in ("surgery", "healed"):
            for loops, scores in found.get(stage, {}).items():
                shown = " ".join(f"{k.split('/')[0]}:{v:.4f}" for k, v in scores.items())
                print(f"{word:>16} {stage:>8} {loops:>2} loops  {shown}", flush=True)


def begin(told: argparse.Namespace, source: Source, window: int, scorer: Scorer) -> dict[str, Any]:
    """The document before any arm: what the source scores."""
    whole = Plan(prelude=0, core=source.n_layers, coda=0, start="none", loops=1, max_seq_len=window)
    before = retrofit(told.source, whole).model.to(told.device)
    return {
        "source": told.source.name,
        "layers": source.n_layers,
        "environment": environment(torch.device(told.device), 0),
        "before": {**describe(before, [1], told.seq_len), "scores": scorer(before, [1])["1"]},
        "arms": [],
    }


if __name__ == "__main__":
    main()
