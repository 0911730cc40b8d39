"""The same weights give the same logits as the public open-mythos 0.5.0.

Two kinds of test. The frozen ones compare with openmythos_05.npz, which holds weights under their
0.5.0 names, ids, and the logits that 0.5.0 computed from them; they always run. The live ones run
0.5.0 itself, from the folder that the environment variable OPEN_MYTHOS_PEER names.

`OPEN_MYTHOS_PEER=<folder> python tests/parity/test_openmythos_05.py` writes the file anew.
"""

import importlib.util
import json
import os
import random
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import open_mythos.main
from open_mythos import MythosConfig, OpenMythos, load_legacy


FROZEN = Path(__file__).with_name("openmythos_05.npz")
LOOPS = (1, 4, 20)
TOLERANCE = 1e-5  # the contract's, in float32

# 24 * 4 // 3 = 32 is 0.5.0's dense width; no default of ours, which rounds up to 64.
SMALL: dict[str, Any] = {
    "vocab_size": 29,
    "dim": 24,
    "n_heads": 4,
    "n_kv_heads": 2,
    "max_seq_len": 24,
    "max_loop_iters": 4,
    "prelude_layers": 1,
    "coda_layers": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 12,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 5,
    "n_experts": 5,
    "n_shared_experts": 2,
    "n_experts_per_tok": 2,
    "expert_dim": 10,
    "act_threshold": 0.9,
    "rope_theta": 1000.0,
    "lora_rank": 3,
}


def peer_module() -> ModuleType | None:
    """0.5.0's main.py under a name of its own; its package would import transformers."""
    folder = os.environ.get("OPEN_MYTHOS_PEER", "")
    path = Path(folder) / "open_mythos" / "main.py"
    if not folder or not path.is_file():
        return None
    name = "openmythos_05_main"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclass looks its own module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def peer() -> ModuleType:
    module = peer_module()
    if module is None:
        pytest.skip("OPEN_MYTHOS_PEER names no folder that holds open_mythos/main.py of 0.5.0")
    return module


def peer_model(peer: ModuleType, attn_type: str, halt_bias: float = -1.5, **changes: Any) -> Any:
    """0.5.0's model with every parameter moved away from its start.

    With a halting bias of -1.5 positions halt, at different loops, some later than the fourth.
    """
    model = peer.OpenMythos(peer.MythosConfig(**{**SMALL, "attn_type": attn_type, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        model.recurrent.block.ffn.router_bias.normal_(std=0.3)
        model.recurrent.act.halt.bias.fill_(halt_bias)
    return model.eval()


def peer_ids() -> Tensor:
    return torch.randint(0, SMALL["vocab_size"], (3, 10))


def our_config(attn_type: str, readout: str = "act_sum", **changes: Any) -> MythosConfig:
    values = {**SMALL, "attn_type": attn_type, "readout": readout, **changes}
    return MythosConfig(**values, dense_hidden=values["dim"] * 4 // 3)


def ours(state: dict[str, Tensor], attn_type: str, readout: str = "act_sum", **changes: Any) -> Any:
    """Our model of the same config with 0.5.0's weights, by plain load_state_dict."""
    model = OpenMythos(our_config(attn_type, readout, **changes))
    model.load_state_dict(state)
    return model.eval()


def one_by_one(model: Any, ids: Tensor, n_loops: int, prompt: int = 1) -> Tensor:
    """Logits from a cache, `prompt` tokens at first and then one token at a time."""
    cache: dict[str, Any] = {}
    parts = [model(ids[:, :prompt], n_loops=n_loops, kv_cache=cache, start_pos=0)]
    for i in range(prompt, ids.shape[1]):
        step = ids[:, i : i + 1]
        parts.append(model(step, n_loops=n_loops, kv_cache=cache, start_pos=i))
    return torch.cat(parts, dim=1)


# -- frozen ---------------------------------------------------------------------------------------


def frozen(attn_type: str) -> tuple[dict[str, Tensor], Tensor, dict[int, Tensor]]:
    """Weights under their old names, ids, and 0.5.0's logits by loops."""
    with np.load(FROZEN, allow_pickle=False) as file:
        mine = [k for k in file.files if k.startswith(f"{attn_type}/")]
        own = {k.removeprefix(f"{attn_type}/"): file[k] for k in mine}
        assert json.loads(str(file["config"])) == SMALL
    logits = {n: torch.from_numpy(own.pop(f"logits_{n}")) for n in LOOPS}
    ids = torch.from_numpy(own.pop("ids"))
    return {k: torch.from_numpy(v) for k, v in own.items()}, ids, logits


@torch.no_grad()
@pytest.mark.parametrize("n_loops", LOOPS)
def test_frozen_weights_give_the_frozen_logits(attn_type: str, n_loops: int) -> None:
    state, ids, logits = frozen(attn_type)
    got = ours(state, attn_type)(ids, n_loops=n_loops)
    assert (got - logits[n_loops]).abs().max() <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("n_loops", LOOPS)
def test_frozen_logits_come_out_of_the_cache_too(attn_type: str, n_loops: int) -> None:
    state, ids, logits = frozen(attn_type)
    got = one_by_one(ours(state, attn_type), ids, n_loops)
    assert (got - logits[n_loops]).abs().max() <= TOLERANCE


@torch.no_grad()
def test_a_saved_frozen_state_dict_loads_by_one_call(attn_type: str, tmp_path: Path) -> None:
    state, ids, logits = frozen(attn_type)
    torch.save(OrderedDict(state), tmp_path / "model.pt")
    model = load_legacy(tmp_path / "model.pt", MythosConfig(**SMALL, attn_type=attn_type))
    assert not model.training
    assert model.cfg.readout == "act_sum"
    assert (model(ids, n_loops=4) - logits[4]).abs().max() <= TOLERANCE


def test_the_frozen_loops_differ_and_halting_matters(attn_type: str) -> None:
    """The reference would prove nothing if every loop count or readout gave the same logits."""
    state, ids, logits = frozen(attn_type)
    assert (logits[1] - logits[4]).abs().max() > 0.01
    assert (logits[4] - logits[20]).abs().max() > 0.01
    with torch.no_grad():
        settled = ours(state, attn_type, readout="act")(ids, n_loops=4)
    assert (settled - logits[4]).abs().max() > 0.01
    assert FROZEN.stat().st_size < 300_000


# -- live -----------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("n_loops", LOOPS)
def test_the_peer_still_gives_the_frozen_logits(
    peer: ModuleType, attn_type: str, n_loops: int
) -> None:
    state, ids, logits = frozen(attn_type)
    model = peer_model(peer, attn_type)
    model.load_state_dict(state)
    assert (model(ids, n_loops=n_loops) - logits[n_loops]).abs().max() <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("n_loops", LOOPS)
def test_logits_agree_for_fresh_weights(peer: ModuleType, attn_type: str, n_loops: int) -> None:
    old = peer_model(peer, attn_type)
    new, ids = ours(old.state_dict(), attn_type), peer_ids()
    want = old(ids, n_loops=n_loops)
    assert (new(ids, n_loops=n_loops) - want).abs().max() <= TOLERANCE
    assert (new.train()(ids, n_loops=n_loops) - want).abs().max() <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("n_loops", LOOPS)
@pytest.mark.parametrize("prompt", [1, 6])
def test_logits_agree_while_decoding_one_token_at_a_time(
    peer: ModuleType, attn_type: str, n_loops: int, prompt: int
) -> None:
    old = peer_model(peer, attn_type)
    new, ids = ours(old.state_dict(), attn_type), peer_ids()
    want = one_by_one(old, ids, n_loops, prompt)
    assert (one_by_one(new, ids, n_loops, prompt) - want).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    "changes",
    [
        {"prelude_layers": 2, "coda_layers": 3},
        {"n_shared_experts": 0},
        {"n_kv_heads": 4, "n_experts_per_tok": 5},
        {"prelude_layers": 0, "coda_layers": 0},
        {"n_experts": 12, "expert_dim": 4},
        {"act_threshold": 0.5},
    ],
    ids=str,
)
@torch.no_grad()
def test_logits_agree_for_other_shapes(
    peer: ModuleType, attn_type: str, changes: dict[str, Any]
) -> None:
    old = peer_model(peer, attn_type, **changes)
    new, ids = ours(old.state_dict(), attn_type, **changes), peer_ids()
    assert (new(ids, n_loops=3) - old(ids, n_loops=3)).abs().max() <= TOLERANCE


def test_gradients_agree(peer: ModuleType, attn_type: str) -> None:
    old = peer_model(peer, attn_type)
    new, ids = ours(old.state_dict(), attn_type), peer_ids()
    seed = torch.randn(*ids.shape, SMALL["vocab_size"])
    (old(ids, n_loops=3) * seed).sum().backward()
    (new(ids, n_loops=3) * seed).sum().backward()
    for name in ("embed.weight", "recurrent.injection.log_A", "recurrent.act.halt.weight"):
        want, got = old.get_parameter(name).grad, new.get_parameter(name).grad
        assert (got - want).abs().max() <= 1e-5 * max(1.0, float(want.abs().max())), name
    attn, width = old.recurrent.block.attn, new.recurrent.block.attn
    first, fused = (attn.wq, width.wqkv) if attn_type == "gqa" else (attn.q_down, width.down)
    part = fused.weight.grad[: first.weight.shape[0]]
    assert (part - first.weight.grad).abs().max() <= 1e-5 * max(1.0, float(part.abs().max()))


@torch.no_grad()
def test_a_training_checkpoint_loads_with_the_config_that_it_pickles(
    peer: ModuleType, attn_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = peer_model(peer, attn_type)
    with torch.enable_grad():
        optimizer = torch.optim.AdamW(old.parameters(), lr=1e-3, fused=False)
        old(peer_ids(), n_loops=2).square().mean().backward()
        optimizer.step()
    cfg = old.cfg
    with monkeypatch.context() as patch:  # what pickle wrote while 0.5.0 was open_mythos
        patch.setattr(peer.MythosConfig, "__module__", "open_mythos.main")
        patch.setattr(open_mythos.main, "MythosConfig", peer.MythosConfig)
        checkpoint = {
            "step": 7,
            "model": old.state_dict(),
            "optimizer": optimizer.state_dict(),
            "cfg": cfg,
            "vocab_size": cfg.vocab_size,
            "seed": 3,
            "rng": {
                "python": random.getstate(),
                "numpy": np.random.get_state(),  # noqa: NPY002 -- what 0.5.0 saved
                "torch": torch.get_rng_state(),
            },
        }
        torch.save(checkpoint, tmp_path / "step_7.pt")
    assert b"open_mythos.main" in (tmp_path / "step_7.pt").read_bytes()
    new, ids = load_legacy(tmp_path / "step_7.pt"), peer_ids()
    assert new.cfg.attn_type == attn_type
    for n_loops in LOOPS:
        assert (new(ids, n_loops=n_loops) - old(ids, n_loops=n_loops)).abs().max() <= TOLERANCE


@torch.no_grad()
def test_the_normalised_readout_agrees_where_every_position_halts(
    peer: ModuleType, attn_type: str
) -> None:
    old = peer_model(peer, attn_type, halt_bias=4.0)
    new, ids = ours(old.state_dict(), attn_type, readout="act"), peer_ids()
    record = ours(old.state_dict(), attn_type)(ids, n_loops=6, return_output=True)
    total = record.halting_weights.sum(dim=0)
    assert torch.allclose(total, torch.ones_like(total))
    assert (new(ids, n_loops=6) - old(ids, n_loops=6)).abs().max() <= TOLERANCE


@torch.no_grad()
def test_the_normalised_readout_agrees_exactly_at_the_positions_that_halted(
    peer: ModuleType, attn_type: str
) -> None:
    """Without a coda the logits of a position come from its own readout alone."""
    old = peer_model(peer, attn_type, coda_layers=0)
    old.recurrent.act.halt.weight.mul_(3.0)
    ids, twin = peer_ids(), ours(old.state_dict(), attn_type, coda_layers=0)
    none, every = -30.0, 30.0  # biases at which nobody halts, and everybody
    whole = torch.ones(ids.shape, dtype=torch.bool)
    while whole.all() or not whole.any():
        bias = (none + every) / 2
        for model in (old, twin):
            model.recurrent.act.halt.bias.fill_(bias)
        weights = twin(ids, n_loops=3, return_output=True).halting_weights
        whole = (weights.sum(dim=0) - 1.0).abs() < 1e-6
        none, every = (none, bias) if whole.all() else (bias, every)
    new = ours(old.state_dict(), attn_type, readout="act", coda_layers=0)
    gap = (new(ids, n_loops=3) - old(ids, n_loops=3)).abs().amax(dim=-1)
    assert gap[whole].max() <= TOLERANCE
    assert gap[~whole].min() > TOLERANCE


def record() -> None:
    """Write FROZEN from the peer."""
    module = peer_module()
    if module is None:
        raise SystemExit("set OPEN_MYTHOS_PEER to a folder that holds open_mythos/main.py of 0.5.0")
    arrays: dict[str, Any] = {"config": np.array(json.dumps(SMALL))}
    for attn_type in ("gqa", "mla"):
        torch.manual_seed(5)
        model, ids = peer_model(module, attn_type), peer_ids()
        for name, tensor in model.state_dict().items():
            arrays[f"{attn_type}/{name}"] = tensor.numpy()
        arrays[f"{attn_type}/ids"] = ids.numpy()
        for n_loops in LOOPS:
            with torch.no_grad():
                arrays[f"{attn_type}/logits_{n_loops}"] = model(ids, n_loops=n_loops).numpy()
    np.savez_compressed(FROZEN, **arrays)


if __name__ == "__main__":
    record()
