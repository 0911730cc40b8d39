"""Names and layouts of open-mythos 0.5.0, made here from a model by its public names."""

import pickle
import random
import sys
from collections.abc import Callable
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import open_mythos.main
from open_mythos.checkpoint.legacy import is_legacy, modernise, read_legacy, split_legacy
from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CheckpointError
from open_mythos.model.mythos import OpenMythos


Config = Callable[..., MythosConfig]
Shake = Callable[..., Any]
ATTENTION = {
    "gqa": ("wq", "wk", "wv"),
    "mla": ("q_down", "q_up_nope", "q_up_rope", "kv_down"),
}


def aged(model: Any) -> dict[str, Tensor]:
    """The state dict that 0.5.0 would have saved: one Linear for each published name."""
    blocks = {"recurrent.block": model.recurrent.block}
    for part in ("prelude", "coda"):
        blocks |= {f"{part}.{i}": block for i, block in enumerate(getattr(model, part))}
    out: dict[str, Tensor] = {}
    for where, block in blocks.items():
        for name in ATTENTION[model.cfg.attn_type]:
            out[f"{where}.attn.{name}.weight"] = getattr(block.attn, name).weight
        ffn = block.ffn
        experts = {f"{where}.ffn": ffn}
        if where == "recurrent.block":
            experts = {
                f"{where}.ffn.routed_experts.{i}": e for i, e in enumerate(ffn.routed_experts)
            }
            experts |= {
                f"{where}.ffn.shared_experts.{i}": e for i, e in enumerate(ffn.shared_experts)
            }
        for place, expert in experts.items():
            for name in ("gate", "up", "down"):
                out[f"{place}.{name}.weight"] = getattr(expert, name).weight
    fused = ("wqkv", "down.weight", "q_up.weight", "gate_up", "ffn.down", "shared.")
    for name, tensor in model.state_dict().items():
        own = name.startswith("recurrent.lora.") or not any(part in name for part in fused)
        if own:
            out.setdefault(name, tensor)
    out["freqs_cis"], out["freqs_cis_mla"] = model.freqs_cis, model.freqs_cis_mla
    return {name: tensor.detach().clone() for name, tensor in out.items()}


@pytest.fixture
def model(tiny_config: Config, randomised: Shake, attn_type: str) -> Any:
    # Twelve experts: sorted as text, expert 10 would come before expert 2.
    return randomised(
        OpenMythos(tiny_config(attn_type=attn_type, n_experts=12, n_shared_experts=2))
    ).eval()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


# -- names -----------------------------------------------------------------------------------------


def test_modernise_undoes_age(model: Any) -> None:
    old = aged(model)
    before = {name: tensor.clone() for name, tensor in old.items()}
    assert same(modernise(old), model.state_dict())
    assert same(old, before)


def test_the_order_of_the_names_does_not_matter(model: Any) -> None:
    names = list(aged(model).items())
    random.Random(4).shuffle(names)
    assert same(modernise(dict(names)), model.state_dict())


@pytest.mark.parametrize(
    "changes", [{"n_shared_experts": 0}, {"prelude_layers": 0, "coda_layers": 3}]
)
def test_modernise_follows_the_config(
    tiny_config: Config, randomised: Shake, changes: dict[str, int], attn_type: str
) -> None:
    model = randomised(OpenMythos(tiny_config(attn_type=attn_type, **changes)))
    assert same(modernise(aged(model)), model.state_dict())


def test_old_states_are_told_from_new_ones(model: Any) -> None:
    assert is_legacy(aged(model))
    assert not is_legacy(model.state_dict())
    assert not is_legacy({})


@torch.no_grad()
def test_load_state_dict_takes_either(model: Any) -> None:
    ids = torch.randint(0, 37, (2, 6))
    for state in (aged(model), model.state_dict()):
        other = OpenMythos(model.cfg).eval()
        other.load_state_dict(state)
        assert torch.equal(other(ids), model(ids))


def test_a_missing_weight_is_named(model: Any) -> None:
    names = {"gqa": "prelude.0.attn.wk.weight", "mla": "prelude.0.attn.kv_down.weight"}
    for name in (
        names[model.cfg.attn_type],
        "coda.0.ffn.up.weight",
        "recurrent.block.ffn.routed_experts.3.down.weight",
        "recurrent.block.ffn.routed_experts.3.up.weight",
        "recurrent.block.ffn.shared_experts.1.down.weight",
    ):
        old = aged(model)
        del old[name]
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            modernise(old)
    old = {k: v for k, v in aged(model).items() if ".routed_experts." not in k}
    with pytest.raises(CheckpointError, match=r"routed_experts"):
        modernise(old)


# -- content ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "_fsdp_wrapped_module.", "module._orig_mod."]
)
def test_split_takes_off_what_wrappers_put_in_front(model: Any, prefix: str) -> None:
    old = aged(model)
    wrapped = {prefix + name: tensor for name, tensor in old.items()}
    for content, cfg in ((wrapped, None), ({"model": wrapped, "cfg": model.cfg}, model.cfg)):
        state, found = split_legacy(content, Path("some.pt"))
        assert same(state, old)
        assert found is cfg


def test_wrappers_in_the_middle_of_a_name_are_taken_off_too(model: Any) -> None:
    old = aged(model)
    wrapped = {
        k.replace("recurrent.", "recurrent._fsdp_wrapped_module."): v for k, v in old.items()
    }
    assert same(split_legacy({"model": wrapped}, Path("some.pt"))[0], old)


@pytest.mark.parametrize("content", [{}, {"model": 3}, {"model": {"w": torch.zeros(1)}}, {"a": 1}])
def test_content_without_old_weights_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"some\.pt holds no open-mythos 0\.5\.0 weights"):
        split_legacy(content, Path("some.pt"))


# -- reading ---------------------------------------------------------------------------------------


def test_a_training_checkpoint_is_read_without_trust(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that 0.5.0's training script puts into one: config, optimizer, three RNGs."""
    trained = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3)
    trained(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    old_class = make_dataclass("MythosConfig", ["dim"])
    old_class.__module__ = "open_mythos.main"
    with monkeypatch.context() as patch:
        patch.setattr(open_mythos.main, "MythosConfig", old_class)
        content = {
            "step": 12,
            "model": aged(model),
            "optimizer": optimizer.state_dict(),
            "cfg": old_class(dim=16),
            "vocab_size": 37,
            "seed": 1,
            "rng": {
                "python": random.getstate(),
                "numpy": np.random.get_state(),  # noqa: NPY002 -- what such files hold
                "torch": torch.get_rng_state(),
            },
        }
        torch.save(content, tmp_path / "step.pt")
    read = read_legacy(tmp_path / "step.pt")
    assert type(read["cfg"]) is MythosConfig
    assert read["cfg"].dim == 16
    assert same(read["model"], content["model"])
    assert read["step"] == 12
    assert np.array_equal(read["rng"]["numpy"][1], content["rng"]["numpy"][1])
    assert read["rng"]["python"] == content["rng"]["python"]


def test_a_script_that_ran_beside_main_pickled_another_module_name(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("main", "open_mythos.main"):
        old_class = make_dataclass("MythosConfig", ["dim"])
        old_class.__module__ = module
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, type("M", (), {"MythosConfig": old_class}))
            torch.save({"model": aged(model), "cfg": old_class(dim=16)}, tmp_path / "step.pt")
        assert read_legacy(tmp_path / "step.pt")["cfg"].dim == 16


class Payload:
    """Pickles as a call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_code_is_refused_unless_trusted(tmp_path: Path) -> None:
    torch.save({"a": Payload(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil\.pt holds pickled code.*trusted=True"):
        read_legacy(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
    read_legacy(tmp_path / "evil.pt", trusted=True)
    assert (tmp_path / "ran").exists()


def test_trust_does_not_outlive_the_call(tmp_path: Path, model: Any) -> None:
    """What is allowed for reading an old file is not allowed to every torch.load after it."""
    torch.save({"cfg": model.cfg}, tmp_path / "cfg.pt")
    with pytest.raises(CheckpointError, match="pickled code"):
        read_legacy(tmp_path / "cfg.pt")  # today's class is not what 0.5.0 pickled
    before = set(torch.serialization.get_safe_globals())
    torch.save({"a": torch.zeros(2)}, tmp_path / "plain.pt")
    read_legacy(tmp_path / "plain.pt")
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files_and_files_of_something_else(
    tmp_path: Path, trusted: bool, zipped: bool
) -> None:
    path = tmp_path / "some.pt"
    torch.save({"w": torch.randn(300)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    cuts = [whole[: int(len(whole) * share)] for share in (0.02, 0.3, 0.6, 0.99)]
    words = [b"", b"no weights here", bytes(range(256)), b"\x80\x02.", b"hello" * 50]
    for content in (*cuts, *words):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"some\.pt") as caught:
            read_legacy(path, trusted=trusted)
        assert "trusted=True" not in str(caught.value), content[:20]
    with pytest.raises(CheckpointError, match=r"none\.pt is not a file"):
        read_legacy(tmp_path / "none.pt", trusted=trusted)
    with pytest.raises(CheckpointError, match="is not a file"):
        read_legacy(tmp_path, trusted=trusted)


def test_a_file_that_holds_no_dict(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match=r"list\.pt holds a list, not a state dict"):
        read_legacy(tmp_path / "list.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(3, protocol=2))
    with pytest.raises(CheckpointError, match=r"plain\.pt"):
        read_legacy(tmp_path / "plain.pt")
