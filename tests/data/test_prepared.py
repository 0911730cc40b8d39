"""A prepared folder is opened as it was written, or not at all."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from open_mythos.data.corpus import plays_text, split_documents
from open_mythos.data.prepare import Request, prepare
from open_mythos.data.prepared import Prepared, Split, is_prepared, open_prepared
from open_mythos.errors import DamagedError, InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text = "\f".join(split_documents(plays_text())[:30])
    (tmp_path / "in.txt").write_text(text)
    out = tmp_path / "out"
    request = Request(
        sources=(str(tmp_path / "in.txt"),), out=out, validation_share=0.3, shard_tokens=20_000
    )
    prepare(request)
    return out


def edit(path: Path, **changes: object) -> None:
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, **changes}))


def test_tokens_and_starts_give_the_documents_back(folder: Path) -> None:
    found = open_prepared(folder)
    tokenizer = found.tokenizer()
    documents: list[str] = []
    for split in ("train", "validation"):
        about = found.manifest.splits[split]
        tokens, starts = found.tokens(split), found.starts(split)
        assert tokens.size == about.tokens
        assert starts.size == about.documents > 1
        assert isinstance(tokens.parts[0], np.memmap)
        size = 0
        for start, stop in zip(starts, [*starts[1:], tokens.size], strict=True):
            ids = tokens[int(start) : int(stop)].tolist()
            assert ids[-1] == tokenizer.eos_id
            assert tokenizer.eos_id not in ids[:-1]
            documents.append(tokenizer.decode(ids))
            size += len(documents[-1].encode())
        assert size == about.text_bytes
    assert sorted(documents) == sorted(split_documents(plays_text())[:30])
    assert len(found.tokens("train").parts) > 1
    assert found.tokenizer_files
    found.check()


def test_the_share_of_real_tokens_is_that_of_a_count(folder: Path) -> None:
    found = open_prepared(folder)
    tokens, starts = found.tokens("train"), found.starts("train")
    lengths = np.diff([*starts, tokens.size])
    for seq_len in (7, 64, 100_000):
        rows = sum(-(-(int(n) - 1) // seq_len) for n in lengths)
        packed, alone = found.real_share(seq_len)
        assert alone == pytest.approx((tokens.size - len(lengths)) / (rows * seq_len))
        assert packed == pytest.approx(
            (tokens.size - 1) / (-(-(tokens.size - 1) // seq_len) * seq_len)
        )


def test_an_empty_split_is_an_empty_array(folder: Path) -> None:
    manifest = open_prepared(folder).manifest
    none = Prepared(folder, replace(manifest, splits={"train": Split()}))
    assert none.tokens("train").size == 0
    assert none.starts("train").size == 0
    assert none.real_share(8) == (0.0, 0.0)


def test_other_folders_are_told_apart(tmp_path: Path, folder: Path) -> None:
    assert is_prepared(folder)
    assert not is_prepared(tmp_path)
    with pytest.raises(InputError, match=r"holds no prepared text.*data prepare"):
        open_prepared(tmp_path)
    (tmp_path / "manifest.json").write_text('{"files": {}}')  # that of a checkpoint
    assert not is_prepared(tmp_path)
    edit(folder / "manifest.json", format="open_mythos tokens 9")
    with pytest.raises(InputError, match="'open_mythos tokens 9', not 'open_mythos tokens 1'"):
        open_prepared(folder)


def test_missing_and_altered_files_are_named(folder: Path) -> None:
    shard = folder / "train-00001.bin"
    content = bytearray(shard.read_bytes())
    content[0] ^= 1
    shard.write_bytes(content)
    found = open_prepared(folder)  # of the right size: only the checksum tells
    with pytest.raises(DamagedError, match=r"train-00001\.bin is not what was written"):
        found.check()
    shard.write_bytes(content[:-2])
    with pytest.raises(DamagedError, match=rf"has {len(content) - 2} bytes, {len(content)} bytes"):
        open_prepared(folder)
    shard.unlink()
    with pytest.raises(DamagedError, match=r"train-00001\.bin does not exist"):
        open_prepared(folder)
    edit(folder / "manifest.json", dtype="float16")
    with pytest.raises(DamagedError, match=r"manifest\.json is damaged: dtype"):
        open_prepared(folder)
