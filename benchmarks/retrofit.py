r"""A pretrained model made to loop: before, after surgery and after healing, at 1 to 8 loops.

    open-mythos data prepare TEXT --tokenizer HF_DIR --out DATA
    python benchmarks/retrofit.py HF_DIR --data DATA --out runs/retrofit \
        --results benchmarks/results/retrofit.json
    python benchmarks/retrofit.py HF_DIR --no-heal --items 8 --loops 1,2    # look at surgery alone
    python benchmarks/retrofit.py HF_DIR --no-heal --arms none:10-10-10,carry0.1,substep:14-2-14

"before" is the source itself: all its layers, run once by our own blocks (tests/retrofit holds
those against transformers). Every arm is a cut and a start; --no-heal leaves out training. Scores
are bits per byte of held-out text (of DATA, if it is given, and of the bundled plays) and the
offline choice tasks, by this library's own scorers. An arm that is healed is a run folder, which
goes on where it was stopped. Results are written after every arm.

An arm is NAME or NAME:PRELUDE-CORE-CODA. NAME is "carryX" (lti_first, that share of h), "concatX",
"none", or "substep" (training-free: measured as it is, never healed, the core's step cut by the
number of loops). What follows a "+" is a setting of the recipe: carry0.5:8-8-8+optim.lr=1e-4.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from open_mythos.checkpoint.files import write_json
from open_mythos.config.budget import flops_per_token, parameters
from open_mythos.config.overrides import configure, to_plain
from open_mythos.data.prepared import open_prepared
from open_mythos.data.tokenizer import Tokenizer, tokenizer_from_folder
from open_mythos.eval.bits_per_byte import score_texts
from open_mythos.eval.offline_scores import score_offline
from open_mythos.model.mythos import OpenMythos
from open_mythos.retrofit.folder import save_retrofit
from open_mythos.retrofit.source import open_source
from open_mythos.retrofit.surgery import Plan, retrofit
from open_mythos.train.environment import environment
from open_mythos.train.presets import recipe
from open_mythos.train.starting import starting_recipe
from open_mythos.train.trainer import train


TASKS = ("mythos_plays", "mythos_lines", "mythos_steps")
CUT = (8, 8, 8)
TOKENS = 65_536  # of held-out text


@dataclass(frozen=True)
class Arm:
    """One way to make a loop of the source.

    Attributes:
        name: As it was asked for.
        plan: Cut and start.
        settings: Of the recipe, beside those of all arms.
    """

    name: str
    plan: Plan
    settings: tuple[str, ...] = ()


def arm(word: str, loops: int, max_seq_len: int) -> Arm:
    """What NAME:PRELUDE-CORE-CODA+KEY=VALUE stands for."""
    named, *settings = word.split("+")
    kind, _, parts = named.partition(":")
    prelude, core, coda = (int(n) for n in parts.split("-")) if parts else CUT
    how: dict[str, Any] = {"start": "none"}
    if kind.startswith(("carry", "concat")):
        start = "lti_first" if kind.startswith("carry") else "concat_linear"
        how = {"start": start, "carry": float(kind.removeprefix("carry").removeprefix("concat"))}
    elif kind == "substep":
        how = {"start": "substep"}
    elif kind != "none":
        raise SystemExit(f"there is no arm {kind!r}; see --help")
    plan = Plan(prelude=prelude, core=core, coda=coda, loops=loops, max_seq_len=max_seq_len, **how)
    return Arm(word, plan, tuple(settings))


class Scorer:
    """The same texts and questions for every network."""

    def __init__(self, told: argparse.Namespace, tokenizer: Tokenizer) -> None:
        self.told, self.tokenizer = told, tokenizer
        self.texts = held_out_texts(told.data, told.items) if told.data else []

    def __call__(self, model: OpenMythos, loops: Sequence[int]) -> dict[str, dict[str, float]]:
        """Number of loops -> every score."""
        found: dict[str, dict[str, float]] = {}
        table = score_offline(model, self.tokenizer, TASKS, loops, limit=self.told.items or None)
        for task, by in table.to_json().items():
            for metric, values in by.items():
                for n, value in values.items():
                    found.setdefault(n, {})[f"{task}/{metric}"] = value
        for n in loops if self.texts else ():
            score = score_texts(model, self.tokenizer, self.texts, n)
            found[str(n)] |= {"held_out/bits_per_byte": score.bits_per_byte or 0.0}
        return found


def held_out_texts(folder: Path, items: int) -> list[str]:
    """Documents that DATA holds out, as text: up to TOKENS in all, up to a quarter of it of one."""
    prepared = open_prepared(folder)
    tokenizer, tokens = prepared.tokenizer(), prepared.tokens("validation")
    starts = [int(n) for n in prepared.starts("validation")]
    texts, left = [], TOKENS
    for start, end in pairwise([*starts, tokens.size]):
        count = min(end - start, left, TOKENS // 4)
        texts.append(tokenizer.decode(tokens[start : start + count]))
        left -= count
        if left <= 0 or len(texts) == items:
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
    if word.plan.start == "substep":  # a network per number of loops: the step is cut by it
        scores: dict[str, dict[str, float]] = {}
        for n in told.loops:
            made = retrofit(told.source, replace(word.plan, loops=n))
            scores |= scorer(made.model.to(told.device), [n])
    else:
        made = retrofit(told.source, word.plan)
        scores = scorer(made.model.to(told.device), told.loops)
    found = {
        "arm": word.name,
        "dropped": list(made.cut.dropped),
        **describe(made.model, told.loops, told.seq_len),
        "surgery": scores,
    }
    if told.heal and word.plan.start != "substep":
        start = told.out / folder_name(word.name) / "start"
        if not (start / "config.json").is_file():
            save_retrofit(retrofit(told.source, word.plan), start)
        model, story = heal(word, start, told)
        found |= {"healing": story, "healed": scorer(model.to(told.device), told.loops)}
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
    parser.add_argument("--items", type=int, default=0, help="of every task and text; 0: all")
    parser.add_argument("--heal", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/retrofit"))
    parser.add_argument("--results", type=Path)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of every healing")
    told = parser.parse_intermixed_args()
    told.loops = [int(n) for n in told.loops.split(",")]
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
    whole = Plan(prelude=0, core=source.n_layers, coda=0, start="none", loops=1, max_seq_len=window)
    before = retrofit(told.source, whole).model.to(told.device)
    document: dict[str, Any] = {
        "source": told.source.name,
        "layers": source.n_layers,
        "environment": environment(torch.device(told.device), 0),
        "before": {**describe(before, [1], told.seq_len), "scores": scorer(before, [1])["1"]},
        "arms": [],
    }
    print("before", document["before"]["scores"], flush=True)
    del before
    for word in told.arms.split(","):
        found = measure(arm(word, told.mean, window), told, scorer)
        document["arms"].append(found)
        write_json(results, document)
        for stage in ("surgery", "healed"):
            for loops, scores in found.get(stage, {}).items():
                shown = " ".join(f"{k.split('/')[0]}:{v:.4f}" for k, v in scores.items())
                print(f"{word:>16} {stage:>8} {loops:>2} loops  {shown}", flush=True)


if __name__ == "__main__":
    main()
