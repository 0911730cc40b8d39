"""load_legacy: one call from a file of open-mythos 0.5.0 to a model that answers as it did."""

import json
import pickle
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import open_mythos.main
from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CheckpointError
from open_mythos.model.legacy import load_legacy
from open_mythos.model.mythos import OpenMythos


FIELDS_05 = """
    vocab_size dim n_heads n_kv_heads max_seq_len max_loop_iters prelude_layers coda_layers
    attn_type kv_lora_rank q_lora_rank qk_rope_head_dim qk_nope_head_dim v_head_dim n_experts
    n_shared_experts n_experts_per_tok expert_dim act_threshold rope_theta lora_rank
    max_output_tokens dropout
"""
Old = tuple[dict[str, Tensor], MythosConfig, Tensor, Tensor]


@pytest.fixture
def old(attn_type: str) -> Old:
    """Weights, config, ids and 4-loop logits that 0.5.0 itself wrote (tests/parity)."""
    path = Path(__file__).parents[1] / "parity" / "openmythos_05.npz"
    with np.load(path, allow_pickle=False) as file:
        cfg = MythosConfig(**json.loads(str(file["config"])), attn_type=attn_type)
        own = {
            name.removeprefix(f"{attn_type}/"): torch.from_numpy(file[name])
            for name in file.files
            if name.startswith(f"{attn_type}/")
        }
    logits = [own.pop(f"logits_{n}") for n in (1, 4, 20)]
    return own, cfg, own.pop("ids"), logits[1]


def agrees(model: Any, ids: Tensor, logits: Tensor) -> bool:
    with torch.no_grad():
        return bool((model(ids, n_loops=4) - logits).abs().max() <= 1e-5)


def pickled_config(cfg: MythosConfig, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An instance of a class that pickles as 0.5.0's, with its fields and no other."""
    values = {k: v for k, v in cfg.to_dict().items() if k in FIELDS_05.split()}
    old_class = make_dataclass("MythosConfig", list(values))
    old_class.__module__ = "open_mythos.main"
    monkeypatch.setattr(open_mythos.main, "MythosConfig", old_class)
    return old_class(**values)


def test_a_bare_state_dict_needs_a_config(old: Old, tmp_path: Path) -> None:
    state, cfg, ids, logits = old
    torch.save(state, tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match=r"old\.pt.*without a config.*load_legacy\(path, cfg"):
        load_legacy(tmp_path / "old.pt")
    model = load_legacy(tmp_path / "old.pt", cfg)
    assert agrees(model, ids, logits)
    assert agrees(load_legacy(str(tmp_path / "old.pt"), cfg), ids, logits)
    assert not model.training
    assert model.head.weight is model.embed.weight
    assert (model.cfg.readout, model.cfg.halted, model.cfg.dense_hidden) == (
        "act_sum",
        "continue",
        cfg.dim * 4 // 3,
    )
    assert cfg.dense_hidden is None  # the caller's is not touched


def test_a_training_checkpoint_brings_its_config(
    old: Old, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, cfg, ids, logits = old
    with monkeypatch.context() as patch:
        checkpoint = {
            "step": 3,
            "model": {f"module.{k}": v for k, v in state.items()},  # DDP's names
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
            "cfg": pickled_config(cfg, patch),
            "vocab_size": cfg.vocab_size,
        }
        torch.save(checkpoint, tmp_path / "step.pt")
    model = load_legacy(tmp_path / "step.pt")
    assert agrees(model, ids, logits)
    assert model.cfg.max_loop_iters == cfg.max_loop_iters
    assert type(model.cfg) is MythosConfig


def test_the_normalised_readout_is_one_argument_away(old: Old, tmp_path: Path) -> None:
    state, cfg, ids, logits = old
    torch.save(state, tmp_path / "old.pt")
    model = load_legacy(tmp_path / "old.pt", cfg, readout="act")
    assert model.cfg.readout == "act"
    assert not agrees(model, ids, logits)
    with torch.no_grad():
        weights = model(ids, n_loops=4, return_output=True).halting_weights
    assert torch.allclose(weights.sum(dim=0), torch.ones(ids.shape))


def test_load_state_dict_takes_the_old_names_as_they_are(old: Old) -> None:
    state, cfg, ids, logits = old
    values = {**cfg.to_dict(), "readout": "act_sum", "dense_hidden": cfg.dim * 4 // 3}
    model, before = OpenMythos(MythosConfig(**values)).eval(), set(state)
    assert str(model.load_state_dict(state)) == "<All keys matched successfully>"
    assert agrees(model, ids, logits)
    assert set(state) == before  # the caller's dict is as it was
    names = set(model.state_dict())
    model.load_state_dict(model.state_dict())
    assert set(model.state_dict()) == names
    del state["recurrent.act.halt.bias"]
    with pytest.raises(RuntimeError, match=r"Missing key.*recurrent\.act\.halt\.bias"):
        model.load_state_dict(state)


def test_a_default_width_says_how_to_fit_old_weights(old: Old) -> None:
    """Today's default dense width is 0.5.0's rounded up to 64, so that the shapes differ."""
    state, cfg, _, _ = old
    with pytest.raises((RuntimeError, ValueError), match="dense_hidden"):
        OpenMythos(cfg).load_state_dict(state)


def test_a_loaded_old_model_is_a_model_like_any_other(old: Old, tmp_path: Path) -> None:
    state, cfg, ids, logits = old
    torch.save(state, tmp_path / "old.pt")
    model = load_legacy(tmp_path / "old.pt", cfg)
    model.save_pretrained(tmp_path / "new")
    assert agrees(OpenMythos.from_pretrained(tmp_path / "new"), ids, logits)
    assert model.generate(ids, 2, 2).shape == (ids.shape[0], ids.shape[1] + 2)
    model.train()(ids).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


# -- refusals --------------------------------------------------------------------------------------


class Payload:
    """Pickles as a call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_pickled_code_runs_only_if_trusted(old: Old, tmp_path: Path) -> None:
    state, cfg, ids, logits = old
    mark = tmp_path / "it-ran"
    torch.save({"model": state, "note": Payload(mark)}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil\.pt holds pickled code.*trusted=True"):
        load_legacy(tmp_path / "evil.pt", cfg)
    assert not mark.exists()
    assert agrees(load_legacy(tmp_path / "evil.pt", cfg, trusted=True), ids, logits)
    assert mark.exists()


def test_the_refusal_of_code_does_not_tell_how_to_run_it_unasked(old: Old, tmp_path: Path) -> None:
    """torch's own message advises weights_only=False; ours has one way out, and it is not that."""
    torch.save({"note": Payload(tmp_path / "it-ran")}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError) as caught:
        load_legacy(tmp_path / "evil.pt", old[1])
    assert "weights_only" not in str(caught.value)


def test_files_that_are_no_old_weights(old: Old, tmp_path: Path) -> None:
    state, cfg, _, _ = old

    def refuse(content: bytes | None, *shown: str) -> None:
        path = tmp_path / "some.pt"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        for trusted in (False, True):
            with pytest.raises(CheckpointError) as caught:
                load_legacy(path, cfg, trusted=trusted)
            for word in ("some.pt", *shown):
                assert word in str(caught.value), f"{word!r} is not in: {caught.value}"
            assert "trusted=True" not in str(caught.value)  # trust would not help

    torch.save(state, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    refuse(None, "not a file")
    refuse(whole[: len(whole) // 2], "truncated")
    refuse(whole[:50], "truncated")
    refuse(b"", "truncated")
    refuse(b"these are no weights, they are words", "truncated")
    torch.save([1, 2], tmp_path / "list.pt")
    refuse((tmp_path / "list.pt").read_bytes(), "list", "state dict")
    torch.save({"embed.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    refuse((tmp_path / "other.pt").read_bytes(), "0.5.0", "recurrent.block.ffn.router.weight")
    refuse(pickle.dumps({"a": 1}), "0.5.0")


def test_weights_of_another_config(old: Old, tmp_path: Path) -> None:
    state, cfg, _, _ = old
    torch.save(state, tmp_path / "old.pt")
    for changes in ({"dim": 32}, {"n_experts": 6}, {"prelude_layers": 2}, {"vocab_size": 30}):
        other = MythosConfig(**{**cfg.to_dict(), **changes})
        with pytest.raises(CheckpointError, match=r"old\.pt does not fit its config"):
            load_legacy(tmp_path / "old.pt", other)
    kind = "gqa" if cfg.attn_type == "mla" else "mla"
    with pytest.raises(CheckpointError, match=r"(?s)old\.pt does not fit its config.*attn"):
        load_legacy(tmp_path / "old.pt", MythosConfig(**{**cfg.to_dict(), "attn_type": kind}))
