import re
from pathlib import Path

import pytest
import yaml

from open_mythos.data.batch import IGNORE
from open_mythos.data.tasks.addition import Addition
from open_mythos.data.tasks.printed import printed
from open_mythos.data.tasks.registry import TASKS, build_task


def test_a_row_is_read_above_what_it_wants() -> None:
    task = Addition(queries=1, batch_size=2)
    batch = task.evaluation_batch(2, seed=7)
    read, wanted = printed(task, 2, seed=7).split("\n")
    signs = [*"0123456789+=_"]
    assert read.split() == [signs[i] for i in batch.ids[0].tolist()]
    assert wanted.split() == ["." if i == IGNORE else signs[i] for i in batch.targets[0].tolist()]


def test_columns_are_as_wide_as_the_wider_word() -> None:
    task = Addition(queries=1, batch_size=1)
    read, wanted = printed(task, 1).split("\n")
    assert read.index("_") == wanted.index(wanted.replace(".", " ").split()[0])


DOCS = (Path(__file__).parents[3] / "docs" / "tasks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(
    r"```text\n> (\S+)((?: \S+=\S+)*) difficulty (\d+)\n(.*?)\n```", DOCS, re.DOTALL
)


@pytest.mark.parametrize(
    ("kind", "words", "difficulty", "shown"), BLOCKS, ids=[block[0] for block in BLOCKS]
)
def test_the_documentation_shows_rows_as_they_are(
    kind: str, words: str, difficulty: str, shown: str
) -> None:
    settings = dict(word.split("=") for word in words.split())
    values = {name: yaml.safe_load(value) for name, value in settings.items()}
    task = build_task(kind, values, batch_size=1, seed=0)
    assert printed(task, int(difficulty)) == shown


def test_the_documentation_has_a_line_and_a_row_of_every_task() -> None:
    assert {block[0] for block in BLOCKS} == set(TASKS)
    lines = set(re.findall(r"^\| `([\w-]+)` \|", DOCS, re.MULTILINE))
    assert lines == set(TASKS) | {f"task-{kind}" for kind in TASKS}
