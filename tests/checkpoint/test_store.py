import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from open_mythos.checkpoint import store
from open_mythos.checkpoint.files import MANIFEST
from open_mythos.checkpoint.sharded import Piece, save_sharded
from open_mythos.checkpoint.store import (
    CONFIG_FILE,
    MODEL_FILE,
    SCHEMA_VERSION,
    load_model,
    read_config,
    read_tensors,
    save_model,
    write_config,
    write_tensors,
)
from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CheckpointError, ConfigError, DamagedError


CONFIG = MythosConfig(vocab_size=7, dim=8, n_heads=2, n_kv_heads=1, attn_type="gqa")


def state(value: float = 1.0) -> dict[str, Tensor]:
    return {"embed.weight": torch.full((7, 8), value), "norm.weight": torch.ones(8)}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[k].dtype == other[k].dtype and torch.equal(one[k], other[k]) for k in one
    )


DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


@settings(max_examples=25, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=4),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_tensors_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[list[int]], dtype: torch.dtype, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    tensors = {
        f"t{i}": torch.randint(0, 100, tuple(s), generator=draw).to(dtype)
        for i, s in enumerate(shapes)
    }
    path = tmp_path_factory.mktemp("t") / "t.safetensors"
    write_tensors(path, tensors, {"note": "kept"})
    found, metadata = read_tensors(path)
    assert equal(found, tensors)
    assert metadata["note"] == "kept"


def test_tied_tensors_are_stored_once_and_tied_again(tmp_path: Path) -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(50, 20), "head": nn.Linear(20, 50, bias=False)})
    model["head"].weight = model["embed"].weight  # type: ignore[assignment]
    path = tmp_path / "t.safetensors"
    write_tensors(path, model.state_dict())
    assert path.stat().st_size < 2 * 50 * 20 * 4
    found, _ = read_tensors(path)
    assert found["head.weight"] is found["embed.weight"]
    assert equal(found, dict(model.state_dict()))


def test_a_name_left_out_by_the_caller_stays_out(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t.safetensors", state())
    assert "head.weight" not in read_tensors(tmp_path / "t.safetensors")[0]


def test_overlapping_and_transposed_views_keep_their_values(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"whole": whole, "rows": whole[1:], "across": whole.T, "first": whole[0]}
    write_tensors(tmp_path / "t.safetensors", tensors)
    assert equal(read_tensors(tmp_path / "t.safetensors")[0], tensors)


# -- models --------------------------------------------------------------------------------------


def test_a_model_comes_back_with_its_config(tmp_path: Path) -> None:
    save_model(tmp_path / "m", CONFIG, state())
    config, weights = load_model(tmp_path / "m")
    assert config == CONFIG
    assert config.to_dict() == CONFIG.to_dict()
    assert equal(weights, state())
    document = json.loads((tmp_path / "m" / CONFIG_FILE).read_text())
    assert document["schema_version"] == SCHEMA_VERSION
    assert document["architecture"] == "open_mythos"


def test_an_exception_in_the_middle_of_a_save_leaves_the_previous_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "m"
    save_model(target, CONFIG, state(1.0))

    def full(path: Path, value: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(store, "write_json", full)
    with pytest.raises(OSError, match="no space"):
        save_model(target, CONFIG, state(2.0))
    assert equal(load_model(target)[1], state(1.0))
    assert list(tmp_path.iterdir()) == [target]


def test_saving_over_a_model_replaces_it(tmp_path: Path) -> None:
    save_model(tmp_path / "m", CONFIG, state(1.0))
    save_model(tmp_path / "m", CONFIG, state(2.0))
    assert equal(load_model(tmp_path / "m")[1], state(2.0))


def test_what_else_a_folder_holds_is_kept(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "src").mkdir()
    for value in (1.0, 2.0):
        save_model(tmp_path, CONFIG, state(value))
        assert equal(load_model(tmp_path)[1], state(value))
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"README.md", "src", MODEL_FILE, CONFIG_FILE, MANIFEST}


@pytest.mark.parametrize("keep", [0, 4, 40, 200, -1])
@pytest.mark.parametrize("manifest", [True, False])
def test_truncated_weights_are_refused(tmp_path: Path, keep: int, manifest: bool) -> None:
    folder = tmp_path / "m"
    save_model(folder, CONFIG, state())
    data = (folder / MODEL_FILE).read_bytes()
    (folder / MODEL_FILE).write_bytes(data[:keep])
    if not manifest:
        (folder / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*truncated.*another copy"):
        load_model(folder)


def test_a_flipped_bit_in_the_weights_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    save_model(folder, CONFIG, state())
    data = bytearray((folder / MODEL_FILE).read_bytes())
    data[-3] ^= 16
    (folder / MODEL_FILE).write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_model(folder)


def edit(folder: Path, **changes: object) -> None:
    save_model(folder, CONFIG, state())
    document = json.loads((folder / CONFIG_FILE).read_text()) | changes
    (folder / CONFIG_FILE).write_text(json.dumps(document))
    (folder / MANIFEST).unlink()


def test_a_newer_schema_is_refused_with_both_versions(tmp_path: Path) -> None:
    edit(tmp_path / "m", schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(
        CheckpointError, match=f"{SCHEMA_VERSION + 1}.*up to {SCHEMA_VERSION}.*upgrade"
    ):
        read_config(tmp_path / "m")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "llama"}, "another architecture.*llama"),
        ({"schema_version": None}, "schema_version None"),
        ({"schema_version": True}, "schema_version True"),
        ({"config": 3}, "no 'config' table"),
    ],
)
def test_foreign_documents_are_refused(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    edit(tmp_path / "m", **changes)
    with pytest.raises(CheckpointError, match=words):
        load_model(tmp_path / "m")


def test_an_impossible_config_says_what_is_wrong(tmp_path: Path) -> None:
    edit(tmp_path / "m", config=CONFIG.to_dict() | {"n_heads": 3})
    with pytest.raises(ConfigError, match="n_heads"):
        load_model(tmp_path / "m")


def test_an_edited_config_is_noticed_and_the_way_out_named(tmp_path: Path) -> None:
    save_model(tmp_path / "m", CONFIG, state())
    path = tmp_path / "m" / CONFIG_FILE
    path.write_text(path.read_text().replace('"dim": 8', '"dim": 9'))
    with pytest.raises(CheckpointError, match=r"delete .*manifest\.json"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("name", ["model.pt", "x.pth", "pytorch_model.bin", "last.CKPT", "a.pkl"])
def test_pickles_are_refused_unread(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    torch.save({"model": state()}, path)
    for call in (load_model, read_tensors):
        with pytest.raises(CheckpointError, match=r"open-mythos convert .*load_legacy"):
            call(path)
    with pytest.raises(CheckpointError, match="convert"):
        load_model(tmp_path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        read_tensors(tmp_path / "x.safetensors")


def test_a_file_that_is_damaged_differs_from_one_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.safetensors"
    for content in (b"", b"x" * 99):
        path.write_bytes(content)
        with pytest.raises(DamagedError, match="truncated"):
            read_tensors(path)

    def deny(*args: object, **kwargs: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(store, "safe_open", deny)
    with pytest.raises(CheckpointError, match=r"not yours.*permissions") as caught:
        read_tensors(path)
    assert not isinstance(caught.value, DamagedError)


def test_a_folder_of_shards_is_a_model_too(tmp_path: Path) -> None:
    cfg = MythosConfig(dim=16, n_heads=2, n_kv_heads=1)
    state = {"embed.weight": torch.randn(4, 2), "exp_avg/embed.weight": torch.randn(4, 2)}
    folder = tmp_path / "step"
    save_sharded(
        folder,
        {name: Piece.whole(tensor) for name, tensor in state.items()},
        fill=lambda fresh: write_config(fresh, cfg, "float32"),
    )
    found, tensors = load_model(folder)
    assert found == cfg
    assert tensors.keys() == {"embed.weight"}
    assert torch.equal(tensors["embed.weight"], state["embed.weight"])
    shard = folder / "shard_00000.safetensors"
    shard.write_bytes(bytes(reversed(shard.read_bytes())))
    with pytest.raises(DamagedError, match="SHA-256"):
        load_model(folder)


def hub_folder(root: Path, files: dict[str, dict[str, Tensor]]) -> None:
    """As transformers writes one: flat fields, weights under `model.`, in numbered files."""
    fields = {"model_type": "open_mythos", "architectures": ["X"], **CONFIG.to_dict()}
    (root / CONFIG_FILE).write_text(json.dumps(fields))
    for name, tensors in files.items():
        write_tensors(root / name, {f"model.{key}": value for key, value in tensors.items()})


def test_a_folder_that_transformers_wrote_is_a_model_too(tmp_path: Path) -> None:
    whole = state()
    hub_folder(tmp_path, {MODEL_FILE: whole})
    config, found = load_model(tmp_path)
    assert config == CONFIG
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_so_is_one_whose_weights_are_in_several_files(tmp_path: Path) -> None:
    whole = {"a": torch.randn(3), "b": torch.randn(2, 2)}
    hub_folder(tmp_path, {f"{name}.safetensors": {name: value} for name, value in whole.items()})
    index = tmp_path / store.HUB_INDEX
    index.write_text(json.dumps({"weight_map": {f"model.{k}": f"{k}.safetensors" for k in whole}}))
    _, found = load_model(tmp_path)
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    index.write_text(json.dumps({"weights": 1}))
    with pytest.raises(DamagedError, match="no index"):
        load_model(tmp_path)
