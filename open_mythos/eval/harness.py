"""The lm-evaluation-harness asks: our networks as one of its models, loops as an argument of it."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from open_mythos.data.tokenizer import Tokenizer, tokenizer_from_folder
from open_mythos.errors import InputError, MissingExtraError
from open_mythos.eval.choices import Question
from open_mythos.eval.completion import completions
from open_mythos.eval.likelihood import first_id, likelihoods, rolling
from open_mythos.eval.offline_tasks import OFFLINE, OfflineTask, Prompt
from open_mythos.eval.score_table import ScoreTable
from open_mythos.eval.served import ServedLM, served_name
from open_mythos.model.mythos import OpenMythos


try:
    from datasets import Dataset
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager
except ImportError as error:  # the harness is an extra
    raise MissingExtraError("lm-eval", "eval", "scoring by the lm-evaluation-harness") from error

METRICS = {"texts": ["bits_per_byte"], "choices": ["acc", "acc_norm"], "answers": ["exact_match"]}
NEW_TOKENS = 64


@register_model("open-mythos")
class LoopedLM(TemplateLM):  # type: ignore[misc]
    """A network of ours for the harness, at one number of loops.

    `lm_eval.simple_evaluate("open-mythos", "pretrained=FOLDER,loops=4", ...)` finds it once this
    module is imported.

    Attributes:
        network: In evaluation mode.
        loops: Loops of every pass; None is the network's own number.
        exit: Where positions leave the loop early, or None.
        window: Positions of one window of a text that is longer.
    """

    def __init__(  # noqa: PLR0913 -- lm-eval names its arguments
        self,
        pretrained: str | Path | OpenMythos,
        tokenizer: Tokenizer | None = None,
        loops: int | None = None,
        exit: str | None = None,
        device: str | None = None,
        batch_size: object = None,
        max_batch_size: object = None,
        *,
        window: int | None = None,
    ) -> None:
        """Take a network and its tokenizer, or read both from a model folder.

        Args:
            pretrained: A network, or its folder.
            tokenizer: Of a network; a folder holds its own.
            loops: Loops.
            exit: An exit by its name.
            device: Where the network goes; None leaves it.
            batch_size: Ignored: passes hold as many rows as fit in `likelihood.POSITIONS`.
            max_batch_size: Ignored likewise.
            window: Positions of one window of a text that is longer; None is all that the network
                reads. A server's are one fewer (`ServedLM`).

        Raises:
            InputError: If there is no tokenizer, or the network does not read so many positions.
        """
        super().__init__()
        del batch_size, max_batch_size
        if isinstance(pretrained, OpenMythos):
            network, found = pretrained, tokenizer
        else:
            network = OpenMythos.from_pretrained(pretrained)
            found = tokenizer or tokenizer_from_folder(pretrained)
        if found is None:
            raise InputError("a network was given without its tokenizer; the harness asks in text")
        self.network = network if device is None else network.to(device)
        self.words = found
        self.loops, self.exit = loops, exit
        most = int(network.cfg.max_seq_len)
        self.window = most if window is None else window
        if not 1 < self.window <= most:
            raise InputError(f"window is {window}; this network reads 2 to {most} positions")

    # -- how text becomes ids --------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """The end of a text, with which one begins."""
        return first_id(self.words)

    @property
    def max_length(self) -> int:
        """Positions of one window."""
        return self.window

    @property
    def tokenizer_name(self) -> str:
        """What the harness keeps requests apart by."""
        return f"{type(self.words).__name__}-{self.words.vocab_size}"

    def tok_encode(self, string: str, *_: Any, **__: Any) -> list[int]:
        """Ids of a text, with nothing added."""
        return self.words.encode(string)

    # -- what is asked ---------------------------------------------------------------------------

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        found = likelihoods(self.network, pairs, self.loops, exit=self.exit)
        for request, one in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request[0], (one.logprob, one.greedy))
        return [(one.logprob, one.greedy) for one in found]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
        """Log-likelihood of whole texts, every token asked once."""
        del disable_tqdm
        ids = [self.words.encode(request.args[0]) for request in requests]
        windows = [list(rolling(text, self.eot_token_id, self.max_length)) for text in ids]
        flat = [pair for pairs in windows for pair in pairs]
        found = iter(likelihoods(self.network, flat, self.loops, exit=self.exit))
        return [sum(next(found).logprob for _ in pairs) for pairs in windows]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What is said after each context, up to a word that ends it; greedy alone.

        Raises:
            InputError: If sampling is asked for.
        """
        del disable_tqdm
        groups: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for index, request in enumerate(requests):
            how = request.args[1]
            if how.get("do_sample") and how.get("temperature", 1.0) != 0.0:
                raise InputError(f"generation is greedy here, and the task asks for {how}")
            stops = how.get("until") or []
            stops = [stops] if isinstance(stops, str) else stops
            most = int(how.get("max_gen_toks", NEW_TOKENS))
            groups.setdefault((tuple(stops), most), []).append(index)
        said: dict[int, str] = {}
        for (stops, most), members in groups.items():
            prompts = [requests[i].args[0] for i in members]
            found = completions(
                self.network, self.words, prompts, stops,
                max_new_tokens=most, n_loops=self.loops, exit=self.exit,
            )  # fmt: skip
            said |= dict(zip(members, found, strict=True))
        return [said[i] for i in range(len(requests))]


def evaluate_loops(  # noqa: PLR0913 -- what one evaluation depends on
    network: OpenMythos,
    tokenizer: Tokenizer,
    tasks: Sequence[str],
    loops: Sequence[int],
    *,
    exit: str | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    include: str | Path | None = None,
    server: str | None = None,
    window: int | None = None,
) -> ScoreTable:
    """The harness's scores of some tasks at several numbers of loops.

    Args:
        network: The network.
        tokenizer: Its tokenizer.
        tasks: Names: the harness's own, or of `offline_tasks`.
        loops: Numbers of loops, one evaluation each.
        exit: Where positions leave the loop early.
        limit: Items of each task, the first so many; None is all.
        num_fewshot: Worked examples before each question; None is the task's own number.
        include: A folder with more tasks, as the harness's own option.
        server: Address of a server that runs the network, which is asked in its place.
        window: Positions of one window of a text that is longer, without a server.

    Raises:
        InputError: If a task is unknown, or the window cannot be had.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    foreign = any(name not in OFFLINE for name in tasks)  # whose index takes seconds
    path = None if include is None else str(include)
    manager = TaskManager(include_path=path, include_defaults=foreign)
    unknown = [name for name in tasks if name not in OFFLINE and name not in manager.all_tasks]
    if unknown:
        raise InputError(
            f"neither the harness nor this library has a task {unknown[0]!r}; `lm-eval ls tasks` "
            f"lists the harness's, ours are {', '.join(OFFLINE)}"
        )
    if server is not None and window is not None:
        raise InputError(f"window is {window}; a server's windows are its own: leave it out")
    table = ScoreTable()
    for n_loops in loops:
        asked = [task_config(OFFLINE[name]) if name in OFFLINE else name for name in tasks]
        found = simple_evaluate(
            _asked(network, tokenizer, n_loops, exit, server, window),
            tasks=asked,
            limit=limit,
            num_fewshot=num_fewshot,
            task_manager=manager,
            bootstrap_iters=0,
            log_samples=False,
        )
        for task, said in found["results"].items():
            table.note(task, n_loops, numbers(said))
    return table


def _asked(
    network: OpenMythos,
    tokenizer: Tokenizer,
    loops: int,
    exit: str | None,
    server: str | None,
    window: int | None,
) -> TemplateLM:
    """Who answers: the network here, or the server."""
    if server is None:
        return LoopedLM(network, tokenizer, loops, exit, window=window)
    return ServedLM(server, served_name(server), tokenizer, network.cfg.max_seq_len,
                    loops=loops, exit=exit)  # fmt: skip


def numbers(said: Mapping[str, Any]) -> dict[str, float]:
    """Metric -> value, of what the harness says of a task; no errors of the mean, no words."""
    plain = {name.split(",")[0]: value for name, value in said.items() if "_stderr" not in name}
    return {
        name: float(value)
        for name, value in plain.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        if name != "sample_len" and math.isfinite(value)
    }


def task_config(task: OfflineTask) -> dict[str, Any]:
    """One of our tasks as the harness describes them, its items made here."""

    def made(**_: Any) -> dict[str, Dataset]:
        return {"test": Dataset.from_list([_document(item) for item in task.make()])}

    config: dict[str, Any] = {
        "task": task.name,
        "custom_dataset": made,
        "test_split": "test",
        "target_delimiter": "",
        "num_fewshot": 0,
        "metric_list": [{"metric": name} for name in METRICS[task.kind]],
        "doc_to_text": _said,
        "doc_to_target": _wanted,
    }
    if task.kind == "texts":
        return {**config, "output_type": "loglikelihood_rolling", "doc_to_text": ""}
    if task.kind == "choices":
        return {**config, "output_type": "multiple_choice", "doc_to_choice": _choices}
    how = {"until": ["\n"], "do_sample": False, "max_gen_toks": 8}
    take = [{"function": "remove_whitespace"}, {"function": "take_first"}]
    filters = [{"name": "stripped", "filter": take}]
    return {
        **config,
        "output_type": "generate_until",
        "generation_kwargs": how,
        "filter_list": filters,
    }


def _document(item: object) -> dict[str, Any]:
    if isinstance(item, Question):
        return {"text": item.context, "choices": list(item.choices), "target": item.answer}
    if isinstance(item, Prompt):
        return {"text": item.text, "target": item.answer}
    return {"text": str(item), "target": str(item)}


def _said(document: Mapping[str, Any]) -> Any:
    return document["text"]


def _wanted(document: Mapping[str, Any]) -> Any:
    return document["target"]


def _choices(document: Mapping[str, Any]) -> Any:
    return document["choices"]
