"""Our own scores of the offline tasks, without any other library."""

from collections.abc import Sequence
from typing import Any

from open_mythos.data.tokenizer import Tokenizer
from open_mythos.eval.bits_per_byte import score_texts
from open_mythos.eval.choices import score_choices
from open_mythos.eval.completion import completions
from open_mythos.eval.offline_tasks import OfflineTask, offline_task
from open_mythos.eval.score_table import ScoreTable
from open_mythos.model.mythos import OpenMythos


ANSWER_TOKENS = 8


def score_offline(
    network: OpenMythos,
    tokenizer: Tokenizer,
    tasks: Sequence[str],
    loops: Sequence[int],
    *,
    exit: str | None = None,
    limit: int | None = None,
) -> ScoreTable:
    """Scores of offline tasks at several numbers of loops, on the same items each time.

    Args:
        network: The network; its mode is restored.
        tokenizer: Its tokenizer.
        tasks: Names of `offline_tasks`.
        loops: Numbers of loops.
        exit: Where positions leave the loop early.
        limit: Items of each task, the first so many; None is all.

    Raises:
        InputError: If a task is unknown.
    """
    found = [offline_task(name) for name in tasks]
    table = ScoreTable()
    for task in found:
        for n_loops in loops:
            table.note(task.name, n_loops, _score(network, tokenizer, task, n_loops, exit, limit))
    return table


def _score(
    network: OpenMythos,
    tokenizer: Tokenizer,
    task: OfflineTask,
    n_loops: int,
    exit: str | None,
    limit: int | None,
) -> dict[str, float]:
    items: list[Any] = list(task.make())[:limit]
    if task.kind == "texts":
        bits = score_texts(network, tokenizer, items, n_loops, exit=exit).bits_per_byte
        return {} if bits is None else {"bits_per_byte": bits}
    if task.kind == "choices":
        score = score_choices(network, tokenizer, items, n_loops, exit=exit)
        return {"acc": score.accuracy, "acc_norm": score.accuracy_per_character}
    said = completions(
        network, tokenizer, [item.text for item in items], ["\n"],
        max_new_tokens=ANSWER_TOKENS, n_loops=n_loops, exit=exit,
    )  # fmt: skip
    right = sum(text.strip() == item.answer for text, item in zip(said, items, strict=True))
    return {"exact_match": right / len(items)}
