"""What DCP is told, and what lies in the folder afterwards."""

import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.metadata import MetadataIndex

from open_mythos.checkpoint.files import remove_temporaries
from open_mythos.checkpoint.shard_files import read_index
from open_mythos.checkpoint.shard_storage import ShardReader, ShardWriter, index_of
from open_mythos.checkpoint.sharded import Box, Piece, save_sharded


def written(folder: Path) -> torch.Tensor:
    whole = torch.randn(4, 3)
    boxes = (Box((0, 0), whole[:1]), Box((1, 0), whole[1:].t().contiguous().t()))
    save_sharded(folder, {"w": Piece((4, 3), boxes)})
    return whole


def test_a_shard_is_an_ordinary_safetensors_file(tmp_path: Path) -> None:
    whole = written(tmp_path / "step")
    found = load_file(tmp_path / "step" / "shard_00000.safetensors")
    assert found.keys() == {"w@0,0", "w@1,0"}
    assert torch.equal(torch.cat([found["w@0,0"], found["w@1,0"]]), whole)


def test_nothing_in_the_folder_is_a_pickle(tmp_path: Path) -> None:
    written(tmp_path / "step")
    for path in (tmp_path / "step").iterdir():
        assert path.suffix in (".json", ".safetensors")
        assert not zipfile.is_zipfile(path)
        assert not path.read_bytes().startswith(b"\x80")


def test_the_index_and_its_metadata_say_the_same(tmp_path: Path) -> None:
    written(tmp_path / "step")
    index = read_index(tmp_path / "step")
    metadata = ShardReader(tmp_path / "step", index).read_metadata()
    stored = {
        MetadataIndex(name, chunk.offset): {"file": chunk.file}
        for name, entry in index.items()
        for chunk in entry.chunks
    }
    assert index_of(metadata, stored) == index


def test_the_hidden_folder_is_one_that_a_later_start_clears_away(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "step", None, lambda: None)
    writer.set_up_storage_writer(True, rank=0)
    writer.set_up_storage_writer(True, rank=0)  # what an earlier try left is replaced
    assert [path.name for path in tmp_path.iterdir()] == [writer.fresh.name]
    assert remove_temporaries(tmp_path) == [writer.fresh]


@pytest.mark.parametrize("kind", [ShardReader, ShardWriter])
def test_dcp_does_not_pick_it_by_itself(kind: type[ShardReader | ShardWriter]) -> None:
    assert not kind.validate_checkpoint_id("anything")
