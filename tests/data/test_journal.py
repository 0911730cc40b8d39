"""A journal is found again as it was saved, and refuses what it does not belong to."""

from pathlib import Path

import pytest

from open_mythos.data.journal import JOURNAL, Journal, open_journal
from open_mythos.data.prepared import FileRecord, Split
from open_mythos.errors import DamagedError, InputError


def test_a_saved_journal_is_found_again(tmp_path: Path) -> None:
    assert open_journal(tmp_path, "r") == Journal(request="r")
    later = Journal(
        request="r",
        source=1,
        record=2,
        pieces=3,
        skipped=4,
        blank=5,
        splits={
            "train": Split(documents=6, tokens=7, text_bytes=8),
            "validation": Split(tokens=1),
        },
        files={"train-00000.bin": FileRecord(bytes=9, sha256="ab")},
    )
    later.save(tmp_path)
    assert open_journal(tmp_path, "r") == later
    assert later.tokens == 8


def test_another_request_may_begin_only_where_nothing_was_written(tmp_path: Path) -> None:
    open_journal(tmp_path, "one")
    assert open_journal(tmp_path, "two").request == "two"
    Journal(request="two", splits={"train": Split(tokens=1)}).save(tmp_path)
    with pytest.raises(InputError, match=r"begun with other settings.*delete it and start over"):
        open_journal(tmp_path, "three")


def test_foreign_folders_and_damaged_journals_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"holds other files \(thesis.tex ...\); give a new"):
        open_journal(tmp_path, "r")
    for content in ("{", '{"request": 1, "record": "x"}', '{"request": "r", "unknown": 1}'):
        (tmp_path / JOURNAL).write_text(content)
        with pytest.raises(DamagedError, match="damaged"):
            open_journal(tmp_path, "r")
