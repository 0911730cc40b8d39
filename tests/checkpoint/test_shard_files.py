from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from open_mythos.checkpoint.files import write_json
from open_mythos.checkpoint.shard_files import (
    INDEX_FILE,
    Chunk,
    Entry,
    chunk_key,
    consolidate,
    of_model,
    open_shard,
    read_box,
    read_index,
    write_index,
    write_shard,
)
from open_mythos.errors import DamagedError


@pytest.fixture
def split(tmp_path: Path) -> dict[str, Tensor]:
    """A folder in which a matrix lies in four boxes over two files; the whole tensors."""
    whole = torch.randn(5, 6)
    tensors = {"w": whole, "exp_avg/w": torch.randn(3).bfloat16(), "step": torch.tensor(7.0)}
    cuts = [(slice(0, 2), slice(0, 4)), (slice(0, 2), slice(4, 6)), (slice(2, 5), slice(0, 6))]
    files: dict[str, dict[str, Tensor]] = {"shard_00000.safetensors": {}, "shard_1.safetensors": {}}
    chunks = []
    for number, cut in enumerate(cuts):
        name = list(files)[number % 2]
        offset = tuple(part.start for part in cut)
        key = chunk_key("w", offset)
        files[name][key] = whole[cut].contiguous()
        chunks.append(Chunk(offset, tuple(whole[cut].shape), name, key))
    entries = {"w": Entry("float32", (5, 6), tuple(chunks))}
    for other in ("exp_avg/w", "step"):
        tensor = tensors[other]
        offset = (0,) * tensor.ndim
        files["shard_1.safetensors"][chunk_key(other, offset)] = tensor
        chunk = Chunk(offset, tuple(tensor.shape), "shard_1.safetensors", chunk_key(other, offset))
        entries[other] = Entry(str(tensor.dtype)[6:], tuple(tensor.shape), (chunk,))
    for name, held in files.items():
        write_shard(tmp_path / name, held)
    write_index(tmp_path, entries)
    return tensors


def test_boxes_of_several_files_are_one_tensor_again(
    tmp_path: Path, split: dict[str, Tensor]
) -> None:
    found = consolidate(tmp_path)
    assert found.keys() == split.keys()
    for name, tensor in split.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_only_what_is_wanted_is_read(tmp_path: Path, split: dict[str, Tensor]) -> None:
    assert consolidate(tmp_path, of_model).keys() == {"w", "step"}
    (tmp_path / "shard_00000.safetensors").unlink()
    assert consolidate(tmp_path, ["step"])["step"] == split["step"]
    with pytest.raises(DamagedError, match="shard_00000"):
        consolidate(tmp_path, ["w"])


def test_an_index_is_read_as_it_was_written(tmp_path: Path, split: dict[str, Tensor]) -> None:
    index = read_index(tmp_path)
    write_index(tmp_path, index)
    assert read_index(tmp_path) == index
    assert [c.offset for c in index["w"].chunks] == [(0, 0), (0, 4), (2, 0)]
    assert index["exp_avg/w"].torch_dtype == torch.bfloat16


def test_whole_files_have_an_index_too(tmp_path: Path) -> None:
    model = {"w": torch.randn(3, 2), "b": torch.zeros(2, dtype=torch.bfloat16)}
    save_file(model, str(tmp_path / "model.safetensors"))
    optimizer = {"step/w": torch.tensor(3.0), "rng/cpu": torch.arange(5, dtype=torch.uint8)}
    save_file(optimizer, str(tmp_path / "optimizer.safetensors"))
    index = read_index(tmp_path)
    assert index.keys() == {*model, *optimizer}
    found = consolidate(tmp_path)
    for name, tensor in {**model, **optimizer}.items():
        assert index[name].torch_dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_a_box_inside_a_box_is_read_alone(tmp_path: Path) -> None:
    whole = torch.arange(24).view(4, 6)
    write_shard(tmp_path / "shard.safetensors", {"w@10,0": whole})
    chunk = Chunk((10, 0), (4, 6), "shard.safetensors", "w@10,0")
    with open_shard(tmp_path / "shard.safetensors") as file:
        assert torch.equal(read_box(file, chunk, (1, 2), (2, 3)), whole[1:3, 2:5])


def test_what_is_no_index_is_damaged(tmp_path: Path) -> None:
    for broken in ([], {"tensors": {}}, {"index_version": 1, "tensors": {"w": {"shape": [1]}}}):
        write_json(tmp_path / INDEX_FILE, broken)
        with pytest.raises(DamagedError, match="no index"):
            read_index(tmp_path)
    write_json(tmp_path / INDEX_FILE, {"index_version": 9, "tensors": {}})
    with pytest.raises(DamagedError, match="version 9"):
        read_index(tmp_path)
    with pytest.raises(DamagedError, match="'load' is no dtype"):
        _ = Entry("load", (), ()).torch_dtype
