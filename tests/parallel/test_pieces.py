"""Checkpoints that move between layouts: bit for bit as values, and as a run that goes on."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from open_mythos.checkpoint.files import check_folder
from open_mythos.checkpoint.shard_files import consolidate, of_model, read_index
from open_mythos.checkpoint.sharded import load_sharded, save_sharded
from open_mythos.checkpoint.store import load_model, write_config, write_model, write_tensors
from open_mythos.errors import CheckpointError
from open_mythos.model.mythos import OpenMythos
from open_mythos.parallel.division import Division
from open_mythos.parallel.pieces import model_tensors, piece_of
from open_mythos.parallel.spread import Spread
from open_mythos.train.state import load_optimizer_tensors, optimizer_tensors
from tests.parallel.twin import learn, network, optimiser, spread_out
from tests.parallel.workers import Workers


LAYOUTS: dict[str, dict[str, int] | None] = {
    "one process": None,
    "ddp": {},
    "fsdp": {"shard": 2},
    "experts": {"expert": 2},
    "fsdp and experts": {"shard": 2, "expert": 2},
    "tensors": {"tensor": 2},
}
BEFORE, AFTER = 4, 4


def test_a_piece_of_a_divided_tensor_lies_where_the_whole_has_it() -> None:
    whole = torch.randn(6, 4)
    for division in (Division("tensor", 0, (2, 4), 2, 1), Division("tensor", 1, (4,), 2, 0)):
        empty = torch.full_like(whole, torch.nan)
        piece = piece_of(division.local(whole), division)
        assert piece.shape == (6, 4)
        for box in piece.boxes:
            at = tuple(slice(a, a + n) for a, n in zip(box.offset, box.part.shape, strict=True))
            assert torch.equal(whole[at], box.part)
            empty[at] = box.part
        assert int(empty.isnan().sum()) == 12


def test_a_networks_tensors_are_those_of_its_state_dict() -> None:
    model = network()
    names = set(model.state_dict()) - {"head.weight"}
    assert set(model_tensors(model)) == names


def test_a_scalar_is_a_piece() -> None:
    piece = piece_of(torch.tensor(3.0))
    assert (piece.shape, piece.boxes[0].offset) == ((), ())


# -- moving ----------------------------------------------------------------------------------------


def write(spread: Spread, model: OpenMythos, optimizer: Any, folder: Path) -> None:
    def fill(fresh: Path) -> None:
        write_config(fresh, model.cfg, "float32")

    group = dist.group.WORLD if dist.is_initialized() else None
    pieces = spread.pieces(model, optimizer_tensors(optimizer))
    save_sharded(folder, pieces, fill=fill, group=group)


def begin(layout: str) -> tuple[OpenMythos, Spread, Any]:
    model, degrees = network(), LAYOUTS[layout]
    spread = Spread() if degrees is None else spread_out(model, degrees)
    return model, spread, optimiser(model)


def train_and_save(layout: str, folder: Path) -> list[float]:
    model, spread, optimizer = begin(layout)
    losses = learn(model, spread, optimizer, range(BEFORE))
    write(spread, model, optimizer, folder)
    return losses


def load_and_go_on(layout: str, folders: list[Path], again: list[Path]) -> list[list[float]]:
    """Of every folder: load it, write it anew, and train on."""
    said = []
    for folder, copy in zip(folders, again, strict=True):
        model, spread, optimizer = begin(layout)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        blanks = spread.blanks(model, folder)
        load_sharded(folder, spread.pieces(model, blanks))
        load_optimizer_tensors(optimizer, blanks)
        write(spread, model, optimizer, copy)
        said.append(learn(model, spread, optimizer, range(BEFORE, BEFORE + AFTER)))
    return said


def run(layout: str, ranks: Workers, function: Any, *args: Any) -> Any:
    return [function(*args)] if LAYOUTS[layout] is None else ranks(function, *args)


@cache
def expected() -> tuple[list[float], dict[str, Tensor]]:
    """Losses of a run that never stopped, and its weights where the others are saved."""
    model = network()
    optimizer = optimiser(model)
    losses = learn(model, Spread(), optimizer, range(BEFORE))
    middle = {name: t.detach().clone() for name, t in model_tensors(model).items()}
    return losses + learn(model, Spread(), optimizer, range(BEFORE, BEFORE + AFTER)), middle


@pytest.fixture(scope="module")
def saved(two: Workers, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of every layout, and one in the form of a single process."""
    root = tmp_path_factory.mktemp("saved")
    losses, _ = expected()
    for layout in LAYOUTS:
        for said in run(layout, two, train_and_save, layout, root / layout):
            torch.testing.assert_close(said, losses[:BEFORE], rtol=0, atol=1e-5)
    model, _, optimizer = begin("one process")
    learn(model, Spread(), optimizer, range(BEFORE))
    (root / "whole").mkdir()
    write_model(root / "whole", model.cfg, model.state_dict())
    write_tensors(root / "whole" / "optimizer.safetensors", optimizer_tensors(optimizer))
    return {name: root / name for name in (*LAYOUTS, "whole")}


@pytest.mark.slow
def test_every_layout_saves_the_same_network(saved: dict[str, Path]) -> None:
    names = consolidate(saved["whole"]).keys()
    for layout in LAYOUTS:
        check_folder(saved[layout])
        assert consolidate(saved[layout]).keys() == names
        for name, tensor in expected()[1].items():
            found = consolidate(saved[layout], [name])[name]
            torch.testing.assert_close(found, tensor, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_goes_on_in_another_layout(
    two: Workers, saved: dict[str, Path], layout: str, tmp_path: Path
) -> None:
    folders = list(saved.values())
    again = [tmp_path / folder.name for folder in folders]
    for said in run(layout, two, load_and_go_on, layout, folders, again):
        for losses in said:
            torch.testing.assert_close(losses, expected()[0][BEFORE:], rtol=0, atol=1e-5)
    for before, after in zip(folders, again, strict=True):
        one, other = consolidate(before), consolidate(after)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_sharded_checkpoint_opens_as_a_model(saved: dict[str, Path]) -> None:
    for layout in LAYOUTS:
        opened = OpenMythos.from_pretrained(saved[layout])
        whole = consolidate(saved[layout], of_model)
        _, state = load_model(saved[layout])
        assert state.keys() == whole.keys()
        for name, tensor in model_tensors(opened).items():
            assert torch.equal(tensor, whole[name])
        assert opened.generate(torch.zeros(1, 2, dtype=torch.int64), 2).shape == (1, 4)


@pytest.mark.slow
def test_work_is_shared_and_nothing_is_written_twice(saved: dict[str, Path]) -> None:
    for layout in set(LAYOUTS) - {"one process"}:
        sizes: dict[str, int] = {}
        for entry in read_index(saved[layout]).values():
            assert (
                sum(torch.Size(c.shape).numel() for c in entry.chunks)
                == torch.Size(entry.shape).numel()
            )
            for chunk in entry.chunks:
                sizes[chunk.file] = sizes.get(chunk.file, 0) + torch.Size(chunk.shape).numel()
        assert len(sizes) == 2
        assert min(sizes.values()) > 0.4 * max(sizes.values())


# -- four, two, one --------------------------------------------------------------------------------


def _four(folder: Path) -> None:
    model = network()
    spread = spread_out(model, {"shard": 4})
    optimizer = optimiser(model)
    learn(model, spread, optimizer, range(2))
    write(spread, model, optimizer, folder)


def _again(degrees: dict[str, int] | None, source: Path, target: Path) -> None:
    model = network(seed=1)
    spread = Spread() if degrees is None else spread_out(model, degrees)
    optimizer = optimiser(model)
    blanks = spread.blanks(model, source)
    load_sharded(source, spread.pieces(model, blanks))
    load_optimizer_tensors(optimizer, blanks)
    write(spread, model, optimizer, target)


@pytest.mark.slow
def test_four_ranks_become_two_and_one_and_four_again(
    four: Workers, two: Workers, tmp_path: Path
) -> None:
    names = ["four", "hybrid", "two", "one", "again"]
    paths = [tmp_path / name for name in names]
    four(_four, paths[0])
    four(_again, {"shard": 2, "tensor": 2, "expert": 2}, paths[0], paths[1])
    two(_again, {"shard": 2}, paths[1], paths[2])
    _again(None, paths[2], paths[3])
    four(_again, {"shard": 4}, paths[3], paths[4])
    first = consolidate(paths[0])
    for path in paths[1:]:
        found = consolidate(path)
        assert found.keys() == first.keys()
        assert all(torch.equal(found[name], first[name]) for name in first)


# -- beside training, and failing ------------------------------------------------------------------


def _beside(folder: Path) -> list[Any]:
    model = network()
    spread = spread_out(model, {"shard": 2})
    optimizer = optimiser(model)
    learn(model, spread, optimizer, range(2))
    group = dist.new_group(backend="gloo")
    pieces = spread.pieces(model, optimizer_tensors(optimizer))
    saving = save_sharded(folder, pieces, group=group, wait=False)
    later = learn(model, spread, optimizer, range(2, 4))
    saving.wait()
    return later


@pytest.mark.slow
def test_training_goes_on_while_a_checkpoint_is_written(two: Workers, tmp_path: Path) -> None:
    model = network()
    optimizer = optimiser(model)
    learn(model, Spread(), optimizer, range(2))
    middle = {name: t.detach().clone() for name, t in model_tensors(model).items()}
    later = learn(model, Spread(), optimizer, range(2, 4))
    for said in two(_beside, tmp_path / "step"):
        torch.testing.assert_close(said, later, rtol=0, atol=1e-5)
    for name, tensor in consolidate(tmp_path / "step", of_model).items():
        torch.testing.assert_close(tensor, middle[name], rtol=0, atol=1e-5)


def _one_fails(folder: Path) -> str:
    model = network()
    spread = spread_out(model, {"shard": 2})
    pieces: dict[str, Any] = dict(spread.pieces(model, {}))
    if dist.get_rank() == 1:
        pieces["embed.weight"] = "no piece"
    try:
        save_sharded(folder, pieces, group=dist.group.WORLD)
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_a_rank_that_fails_to_write_fails_all_and_leaves_nothing(
    two: Workers, tmp_path: Path
) -> None:
    for words in two(_one_fails, tmp_path / "step"):
        assert "could not be written (rank 1" in words
    assert not list(tmp_path.iterdir())
