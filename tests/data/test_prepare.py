"""The same sources give the same bytes, with any number of workers and after any kills."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from open_mythos.data.corpus import plays_text, split_documents
from open_mythos.data.prepare import Progress, Request, prepare
from open_mythos.data.prepared import Prepared
from open_mythos.data.tokenizer import BPETokenizer, save_tokenizer
from open_mythos.errors import InputError


SCENES = split_documents(plays_text())[:40]


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.txt").write_text("\f".join(SCENES[:10]))
    lines = [json.dumps({"text": text}) for text in SCENES[10:25]]
    (source / "b.jsonl").write_text("\n".join([*lines, '{"text": " "}']))
    packed = "\n".join(json.dumps({"text": text}) for text in SCENES[25:])
    (source / "c.jsonl.gz").write_bytes(gzip.compress(packed.encode()))
    return Request(
        sources=(str(source),),
        out=tmp_path / "out",
        validation_share=0.2,
        shard_tokens=20_000,
    )


def content(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def documents(found: Prepared, split: str) -> Counter[str]:
    tokenizer = found.tokenizer()
    tokens, starts = found.tokens(split), found.starts(split)  # type: ignore[arg-type]
    ends = [*starts[1:].tolist(), tokens.size]
    spans = zip(starts.tolist(), ends, strict=True)
    return Counter(tokenizer.decode(tokens[a:b].tolist()) for a, b in spans)


def test_no_document_is_lost_doubled_or_on_both_sides(request_: Request) -> None:
    seen: list[Progress] = []
    found = prepare(request_, seen.append)
    train, validation = documents(found, "train"), documents(found, "validation")
    assert train + validation == Counter(SCENES)
    assert validation
    assert not train & validation
    manifest = found.manifest
    assert (manifest.source_files, manifest.blank, manifest.skipped) == (3, 1, 0)
    assert set(manifest.files) == set(content(request_.out)) - {"manifest.json"}
    assert manifest.splits["train"].documents == 40 - manifest.splits["validation"].documents
    # Progress only ever grows, and ends at the whole.
    for one, later in pairwise(seen):
        assert (one.read, one.tokens, one.text_bytes) <= (
            later.read,
            later.tokens,
            later.text_bytes,
        )
    last = seen[-1]
    assert last.read == last.total == manifest.source_bytes
    assert last.documents == 40
    assert last.text_bytes == sum(len(scene.encode()) for scene in SCENES)


def test_doubles_fall_on_one_side(tmp_path: Path) -> None:
    """Whichever file and format they come from, and however often they do."""
    (tmp_path / "a.txt").write_text("\f".join(SCENES))
    lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(SCENES[::-1] * 2)]
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    found = prepare(Request(sources=(str(tmp_path),), out=tmp_path / "out", validation_share=0.3))
    train, validation = documents(found, "train"), documents(found, "validation")
    assert not train & validation
    assert set((train + validation).values()) == {3}


def test_workers_change_no_byte(request_: Request, tmp_path: Path) -> None:
    prepare(request_)
    prepare(replace(request_, out=tmp_path / "two", workers=2))
    assert content(request_.out) == content(tmp_path / "two")


# Forks a child that is killed before its n-th operation on files, for n = 1, 3, 5, ... (or 2, 4,
# 6, ...), until one finishes; every `fresh`-th child finds an empty folder.
KILLER = """
import os, shutil, signal, sys
from dataclasses import replace
from pathlib import Path
from open_mythos.data.prepare import Request, prepare

sources, out, fresh = (sys.argv[1],), Path(sys.argv[2]), int(sys.argv[3])
request = Request(
    sources=sources, out=out, tokenizer="byte", validation_share=0.2, shard_tokens=5_000
)
deaths = 0

def run(limit):
    calls = 0
    def counted(real):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == limit:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return call
    os.fsync = counted(lambda handle: None)  # the page cache outlives a process
    os.truncate = counted(os.truncate)
    os.mkdir = counted(os.mkdir)
    for name in ("rename", "replace", "unlink"):
        setattr(Path, name, counted(getattr(Path, name)))
    prepare(request)
    os._exit(0)

for limit in range(2 if fresh else 1, 1000, 2):
    pid = os.fork()
    if pid == 0:
        run(limit)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
        break
    deaths += 1
    if fresh and deaths % fresh == 0:
        shutil.rmtree(out, ignore_errors=True)
print(deaths)
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="forks the processes it kills")
@pytest.mark.parametrize("fresh", [0, 2])
def test_kills_at_any_moment_change_no_byte(request_: Request, tmp_path: Path, fresh: int) -> None:
    for path in Path(request_.sources[0]).iterdir():
        path.unlink()
    lines = [json.dumps({"text": text[:500]}) for text in SCENES[:20]]
    (Path(request_.sources[0]) / "a.jsonl").write_text("\n".join(lines))
    (Path(request_.sources[0]) / "b.txt").write_text("\f".join(text[:400] for text in SCENES))
    prepare(replace(request_, tokenizer="byte", shard_tokens=5_000))
    killed = tmp_path / "killed"
    ran = subprocess.run(
        [sys.executable, "-c", KILLER, *request_.sources, str(killed), str(fresh)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(ran.stdout) > 15
    assert content(killed) == content(request_.out)
    assert not [path for path in killed.iterdir() if path.name.startswith(".")]


def test_a_finished_folder_is_taken_as_it_is_or_refused(request_: Request) -> None:
    first = prepare(request_)
    before = content(request_.out)
    assert prepare(replace(request_, workers=3)).manifest == first.manifest
    assert content(request_.out) == before
    for changes in (
        {"validation_share": 0.3},
        {"shard_tokens": 5},
        {"tokenizer": "byte"},
        {"text_field": "body"},
    ):
        with pytest.raises(InputError, match="prepared with other settings"):
            prepare(replace(request_, **changes))  # type: ignore[arg-type]
    (Path(request_.sources[0]) / "d.txt").write_text("new")
    with pytest.raises(InputError, match="other source files"):
        prepare(request_)


def test_a_bad_record_can_be_skipped_after_the_fact(request_: Request) -> None:
    """The message says --skip-bad; who adds it must not have to delete what was done."""
    bad = Path(request_.sources[0]) / "d.jsonl"
    bad.write_text('{"text": "good"}\n{"no": 1}\n')
    with pytest.raises(InputError, match=r"d\.jsonl, line 2: no field 'text'"):
        prepare(request_)
    found = prepare(replace(request_, skip_bad=True))
    assert found.manifest.skipped == 1
    assert documents(found, "train") + documents(found, "validation") == Counter([*SCENES, "good"])


def test_what_cannot_be_prepared_is_told_before_anything_is_written(
    request_: Request, tmp_path: Path
) -> None:
    endless = BPETokenizer.train(["some words"], 257)
    save_tokenizer(endless, tmp_path / "tok")
    path = tmp_path / "tok" / "tokenizer.json"
    path.write_text(path.read_text().replace("<|endoftext|>", "<|other|>"))
    (tmp_path / "tok" / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match=r"has no end-of-text token.*'plays' or 'byte'"):
        prepare(replace(request_, tokenizer=str(path)))
    with pytest.raises(InputError, match="no file or folder 'nowhere'"):
        prepare(replace(request_, sources=("nowhere",)))
    assert not request_.out.exists()
    (tmp_path / "blank.txt").write_text(" \n\f ")
    with pytest.raises(InputError, match="no visible character in"):
        prepare(replace(request_, sources=(str(tmp_path / "blank.txt"),)))
    for changes, words in (
        ({"validation_share": 1.0}, "validation_share is 1.0"),
        ({"shard_tokens": 0}, "shard_tokens is 0"),
        ({"workers": 0}, "workers is 0"),
    ):
        with pytest.raises(InputError, match=words):
            replace(request_, **changes)  # type: ignore[arg-type]
