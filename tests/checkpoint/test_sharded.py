"""Pieces to files and back in one process; many processes are in tests/parallel/test_pieces.py."""

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from open_mythos.checkpoint.files import check_folder
from open_mythos.checkpoint.shard_files import consolidate
from open_mythos.checkpoint.sharded import Box, Piece, load_sharded, save_sharded
from open_mythos.errors import CheckpointError, DamagedError


def cut(tensor: Tensor, rows: list[int], columns: list[int]) -> Piece:
    """A matrix cut at the given rows and columns, in any order."""
    down, across = [0, *rows, tensor.shape[0]], [0, *columns, tensor.shape[1]]
    boxes = [Box((a, c), tensor[a:b, c:d]) for a, b in pairwise(down) for c, d in pairwise(across)]
    random.Random(0).shuffle(boxes)
    return Piece(tuple(tensor.shape), tuple(boxes))


places = st.lists(st.integers(0, 6), max_size=3).map(sorted)


@given(saved=st.tuples(places, places), loaded=st.tuples(places, places))
def test_a_tensor_saved_in_any_boxes_is_loaded_in_any_other(
    tmp_path_factory: pytest.TempPathFactory, saved: Any, loaded: Any
) -> None:
    folder = tmp_path_factory.mktemp("boxes") / "step"
    whole, empty = torch.randn(6, 6), torch.full((6, 6), torch.nan)
    assert save_sharded(folder, {"w": cut(whole, *saved)}).wait() == folder
    load_sharded(folder, {"w": cut(empty, *loaded)})
    assert torch.equal(empty, whole)
    assert torch.equal(consolidate(folder)["w"], whole)


def some() -> dict[str, Tensor]:
    return {"w": torch.randn(3, 4), "step": torch.tensor(2.0), "bits": torch.arange(4).byte()}


def test_a_folder_is_sealed_with_what_else_goes_in(tmp_path: Path) -> None:
    tensors, folder = some(), tmp_path / "step"
    pieces = {name: Piece.whole(tensor) for name, tensor in tensors.items()}
    save_sharded(folder, pieces, fill=lambda fresh: fresh.joinpath("more").write_text("x") and None)
    check_folder(folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {"index.json", "manifest.json", "more", "shard_00000.safetensors"}
    assert json.loads((folder / "manifest.json").read_text())["files"].keys() == names - {
        "manifest.json"
    }
    assert not list(tmp_path.glob(".*"))
    fresh = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    load_sharded(folder, {name: Piece.whole(tensor) for name, tensor in fresh.items()})
    assert all(torch.equal(fresh[name], tensor) for name, tensor in tensors.items())


def test_values_may_change_as_soon_as_a_saving_has_begun(tmp_path: Path) -> None:
    tensor = torch.randn(50, 40)
    before = tensor.clone()
    saving = save_sharded(tmp_path / "step", {"w": Piece.whole(tensor)}, wait=False)
    tensor.zero_()
    assert saving.wait() == tmp_path / "step"
    assert saving.done
    assert torch.equal(consolidate(tmp_path / "step")["w"], before)


def test_a_failed_saving_leaves_what_was_there(tmp_path: Path) -> None:
    folder, tensor = tmp_path / "step", torch.randn(3)
    save_sharded(folder, {"w": Piece.whole(tensor)})

    def full(fresh: Path) -> None:
        raise OSError("no space left")

    for wait in (True, False):
        with pytest.raises(CheckpointError, match=r"could not be written.*no space left"):
            save_sharded(folder, {"w": Piece.whole(torch.zeros(3))}, fill=full, wait=wait).wait()
        assert torch.equal(consolidate(folder)["w"], tensor)
        assert [path.name for path in tmp_path.iterdir()] == ["step"]


def test_a_tensor_with_a_hole_is_not_saved(tmp_path: Path) -> None:
    piece = Piece((4, 2), (Box((0, 0), torch.zeros(1, 2)), Box((2, 0), torch.zeros(2, 2))))
    with pytest.raises(CheckpointError, match="could not be written"):
        save_sharded(tmp_path / "step", {"w": piece})
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    save_sharded(tmp_path / "step", {"w": Piece.whole(torch.zeros(2, 3))})
    with pytest.raises(CheckpointError, match="has no 'v'"):
        load_sharded(tmp_path / "step", {"v": Piece.whole(torch.zeros(2, 3))})
    with pytest.raises(CheckpointError, match=r"'w' of shape \(2, 3\), this model's is \(3, 2\)"):
        load_sharded(tmp_path / "step", {"w": Piece.whole(torch.zeros(3, 2))})


def test_a_truncated_shard_is_damaged(tmp_path: Path) -> None:
    save_sharded(tmp_path / "step", {"w": Piece.whole(torch.zeros(2, 3))})
    shard = tmp_path / "step" / "shard_00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(DamagedError, match="shard_00000"):
        load_sharded(tmp_path / "step", {"w": Piece.whole(torch.zeros(2, 3))})
    with pytest.raises(DamagedError, match="truncated"):
        check_folder(tmp_path / "step")
