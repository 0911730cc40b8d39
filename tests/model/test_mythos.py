"""The whole network: casts, compiles, exports, copies and saves without changing its answers."""

import copy
import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import open_mythos.checkpoint.store
from open_mythos.config.budget import parameters
from open_mythos.config.mythos import MythosConfig
from open_mythos.config.presets import PRESETS, SEED
from open_mythos.errors import CheckpointError
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.mode import evaluating


Config = Callable[..., MythosConfig]
Shake = Callable[..., Any]
Build = Callable[..., Any]


@pytest.fixture
def build(tiny_config: Config, randomised: Shake) -> Build:
    def make(**changes: Any) -> Any:
        return randomised(OpenMythos(tiny_config(**changes))).eval()

    return make


def tokens(model: Any, rows: int = 2, length: int = 7) -> Tensor:
    return torch.randint(0, model.cfg.vocab_size, (rows, length))


def relative(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


# -- dtypes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
@torch.no_grad()
def test_a_pure_16_bit_model_gives_the_answers_of_the_wide_one(
    build: Build, attn_type: str, halted: str, dtype: torch.dtype, tolerance: float
) -> None:
    # One expert for all: a token whose two best scores are 1 part in 200 apart would change sides.
    model = build(attn_type=attn_type, halted=halted, n_experts=2, expert_dim=8)
    narrow = copy.deepcopy(model).to(dtype)
    wide = copy.deepcopy(narrow).double()  # the same rounded weights
    ids = tokens(model)
    for n_loops in (1, 4):
        got = narrow(ids, n_loops=n_loops)
        assert got.dtype == dtype
        assert relative(got, wide(ids, n_loops=n_loops)) < tolerance
    cache: dict[str, Any] = {}
    parts = [narrow(ids[:, s], 4, cache) for s in (slice(0, 4), slice(4, 5), slice(5, 7))]
    assert relative(torch.cat(parts, dim=1), wide(ids, n_loops=4)) < tolerance
    assert narrow.generate(ids, 3, 2).shape == (2, 10)
    assert narrow.recurrent.block.ffn.router_bias.dtype == torch.float32


@torch.no_grad()
def test_half_and_double_by_method(build: Build, attn_type: str) -> None:
    model = build(attn_type=attn_type)
    ids, want = tokens(model), None
    want = model(ids)
    assert relative(copy.deepcopy(model).double()(ids), want) < 1e-5
    assert relative(copy.deepcopy(model).half()(ids), want) < 0.05


def test_a_pure_bfloat16_model_trains(build: Build, attn_type: str) -> None:
    model = build(attn_type=attn_type).to(torch.bfloat16).train()
    ids = tokens(model, 4, 9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for _ in range(12):
        logits = model(ids[:, :-1], n_loops=3)
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.5
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_every_parameter_has_a_gradient(build: Build, attn_type: str) -> None:
    model = build(attn_type=attn_type, n_experts=8, n_experts_per_tok=1).train()
    ids = tokens(model, 1, 2)  # eight experts, two tokens: most get none
    model(ids, n_loops=1).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


# -- compile, export -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager"])
def test_compiled_logits_and_gradients_are_the_eager_ones(build: Build, backend: str) -> None:
    torch._dynamo.reset()
    model = build(prelude_layers=0, coda_layers=0, n_experts=2, n_experts_per_tok=1)
    compiled, ids = torch.compile(model, backend=backend), tokens(model)
    for n_loops in (1, 2):  # another number of loops compiles again and stays right
        want = model(ids, n_loops=n_loops)
        assert torch.allclose(compiled(ids, n_loops=n_loops), want, atol=1e-5)
    (want.square().mean()).backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    compiled(ids, n_loops=2).square().mean().backward()
    for name, p in model.named_parameters():
        assert torch.allclose(p.grad, grads[name], atol=1e-5), name
    torch._dynamo.reset()


@pytest.mark.slow
@torch.no_grad()
def test_export_of_one_pass(build: Build, attn_type: str) -> None:
    model = build(attn_type=attn_type, prelude_layers=0)
    ids = tokens(model)
    program = torch.export.export(model, (ids,), {"n_loops": 2}, strict=False)
    again = tokens(model)
    got = program.module()(again, n_loops=2)
    assert torch.allclose(got, model(again, n_loops=2), atol=1e-5)


# -- copies ----------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_deep_copy_is_equal_and_apart_and_its_head_is_tied(build: Build, attn_type: str) -> None:
    model = build(attn_type=attn_type)
    twin, ids = copy.deepcopy(model), tokens(model)
    want = model(ids)
    assert torch.equal(twin(ids), want)
    assert twin.head.weight is twin.embed.weight
    assert twin.embed.weight is not model.embed.weight
    for parameter in twin.parameters():
        parameter.zero_()
    assert torch.equal(model(ids), want)


@torch.no_grad()
def test_pickles_of_config_and_state_come_back(build: Build, attn_type: str) -> None:
    model = build(attn_type=attn_type)
    cfg = pickle.loads(pickle.dumps(model.cfg))
    assert cfg == model.cfg
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other, ids = OpenMythos(cfg).eval(), tokens(model)
    assert not torch.equal(other(ids), model(ids))
    assert str(other.load_state_dict(state)) == "<All keys matched successfully>"
    assert torch.equal(other(ids), model(ids))
    whole = pickle.loads(pickle.dumps(model))
    assert torch.equal(whole(ids), model(ids))
    assert whole.head.weight is whole.embed.weight


def test_a_build_is_fixed_by_the_seed_and_starts_at_init_std(tiny_config: Config) -> None:
    def made(**changes: Any) -> Any:
        torch.manual_seed(3)
        return OpenMythos(tiny_config(dim=64, vocab_size=500, **changes))

    one, two = made(), made()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    for name, p in one.named_parameters():
        if p.dim() > 1 and p.numel() > 2000:
            assert float(p.detach().std()) == pytest.approx(0.02, rel=0.1), name
    assert float(made(embed_init_std=0.5).embed.weight.detach().std()) == pytest.approx(
        0.5, rel=0.1
    )
    assert float(made(init_std=0.1).head.weight.detach().std()) == pytest.approx(0.1, rel=0.1)


# -- presets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_on_the_meta_device_at_its_size(name: str) -> None:
    cfg = PRESETS[name]()
    with torch.device("meta"):
        model = OpenMythos(cfg)
    count = sum(p.numel() for p in model.parameters())
    if name in SEED:
        digits, unit = name.removeprefix("mythos_")[:-1], name[-1]
        named = int(digits) * {"b": 10**9, "t": 10**12}[unit]
        assert abs(count - named) <= 0.12 * named
    assert count == parameters(cfg).total
    assert {p.device.type for p in model.parameters()} == {"meta"}


# -- router balance --------------------------------------------------------------------------------


def test_the_router_bias_moves_by_the_loads_of_training_passes_only(build: Build) -> None:
    model = build()
    ffn, ids = model.recurrent.block.ffn, tokens(model)
    model(ids)
    before = ffn.router_bias.clone()
    assert not model.update_router_bias().any()
    assert torch.equal(ffn.router_bias, before)
    model.train()
    outs = [model(tokens(model), n_loops=n, return_output=True) for n in (2, 3)]
    load = sum(out.router_load.sum(dim=0) for out in outs)
    assert int(load.sum()) == 2 * 7 * 2 * (2 + 3)
    assert torch.equal(model.update_router_bias(step_size=0.25), load)
    want = before + 0.25 * (load.float().mean() - load.float()).sign()
    assert torch.allclose(ffn.router_bias, want)
    assert not model.update_router_bias().any()  # forgotten after the step
    assert "load" not in " ".join(model.state_dict())


def test_recomputed_passes_are_counted_once(build: Build) -> None:
    model = build().train()
    ids = tokens(model)

    def run() -> Tensor:
        logits: Tensor = model(ids, n_loops=2)
        return logits

    out = torch.utils.checkpoint.checkpoint(run, use_reentrant=False)
    out.square().mean().backward()
    assert int(model.update_router_bias().sum()) == 2 * 7 * 2 * 2


RANK = """
import json, sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from open_mythos.config.mythos import MythosConfig
from open_mythos.model.mythos import OpenMythos

rank, meeting, config = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=2)
torch.manual_seed(0)
model = OpenMythos(MythosConfig(**config)).train()
draw = torch.Generator().manual_seed(rank)
"""
BIAS = """
ids = torch.randint(0, 37, (2 + rank, 5), generator=draw)
own = model(ids, n_loops=2, return_output=True).router_load.sum(dim=0)
total = model.update_router_bias(0.5)
bias = model.recurrent.block.ffn.router_bias
answer = [own.tolist(), total.tolist(), bias.tolist()]
"""
TRAIN = """
wrapped = DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
starts = [p.detach().clone() for p in model.parameters()]
for _ in range(3):  # one token for five experts: at least three of them get none
    logits = wrapped(torch.randint(0, 37, (1, 1), generator=draw), n_loops=1)
    optimizer.zero_grad()
    logits[0, 0, rank].backward()
    optimizer.step()
moved = sum(not torch.equal(p, q) for p, q in zip(model.parameters(), starts))
answer = [moved, [p.double().sum().item() for p in model.parameters()]]
"""
SAY = """
sys.stdout.write(json.dumps(answer))
dist.destroy_process_group()
"""


def on_two_ranks(work: str, cfg: MythosConfig, tmp_path: Path) -> list[Any]:
    """What each of two gloo processes answers."""
    words = [str(tmp_path / "meeting"), json.dumps(cfg.to_dict())]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK + work + SAY, str(rank), *words],
            stdout=subprocess.PIPE,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in range(2)
    ]
    try:
        return [json.loads(process.communicate(timeout=90)[0]) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()


needs_gloo = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")


@pytest.mark.slow
@needs_gloo
def test_the_bias_step_sums_over_ranks(tiny_config: Config, tmp_path: Path) -> None:
    answers = on_two_ranks(BIAS, tiny_config(), tmp_path)
    (own_0, total_0, bias_0), (own_1, total_1, bias_1) = answers
    total = torch.tensor(own_0) + torch.tensor(own_1)
    assert own_0 != own_1
    assert total_0 == total_1 == total.tolist()
    assert bias_0 == bias_1 == (0.5 * (total.float().mean() - total).sign()).tolist()


@pytest.mark.slow
@needs_gloo
@pytest.mark.parametrize("readout", ["act", "last"])
def test_ranks_stay_equal_under_ddp_when_experts_get_no_token(
    tiny_config: Config, readout: str, tmp_path: Path
) -> None:
    """Every trained parameter has a gradient on every rank, or DDP would wait for it."""
    (moved, one), (_, other) = on_two_ranks(TRAIN, tiny_config(readout=readout), tmp_path)
    assert moved > 10
    assert one == other


# -- training mode ---------------------------------------------------------------------------------


def test_evaluating_restores_every_modules_own_mode(build: Build) -> None:
    model = build().train()
    model.coda.eval()
    model.recurrent.block.attn.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    assert len(set(modes.values())) == 2

    def fails() -> None:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_dropout_acts_in_training_and_never_in_generate(build: Build, attn_type: str) -> None:
    model = build(attn_type=attn_type, dropout=0.5).train()
    model.prelude.eval()
    modes = [module.training for module in model.modules()]
    ids = tokens(model)
    assert not torch.equal(model(ids), model(ids))
    one, two = (model.generate(ids, 6, 3, temperature=0.0) for _ in range(2))
    assert torch.equal(one, two)
    assert [module.training for module in model.modules()] == modes
    plain = copy.deepcopy(model).eval()
    assert torch.equal(plain.generate(ids, 6, 3, temperature=0.0), one)
    with pytest.raises(ValueError, match="n_loops is 0"):
        model.generate(ids, 6, 0)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(plain(ids), plain(ids))


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_saved_and_loaded_logits_are_the_same_bits(
    build: Build, attn_type: str, readout: str, injection: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = build(attn_type=attn_type, readout=readout, injection=injection).to(dtype)
    model.save_pretrained(tmp_path / "model")
    twin, ids = OpenMythos.from_pretrained(tmp_path / "model"), tokens(model)
    assert not twin.training
    assert twin.cfg == model.cfg
    assert twin.head.weight is twin.embed.weight
    assert torch.equal(twin(ids), model(ids))
    assert {p.dtype for p in twin.parameters()} == {dtype}
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert [name for name, p in twin.named_parameters() if p.requires_grad] == trained
    assert all("act.halt" in name for name in set(dict(model.named_parameters())) - set(trained))
    assert torch.equal(twin.recurrent.block.ffn.router_bias, model.recurrent.block.ffn.router_bias)


def test_a_loaded_model_trains_on(build: Build, tmp_path: Path) -> None:
    build().save_pretrained(tmp_path / "model")
    model = OpenMythos.from_pretrained(tmp_path / "model").train()
    model(tokens(model)).square().mean().backward()
    assert int(model.update_router_bias().sum()) > 0
    assert model.head.weight.grad is model.embed.weight.grad


@torch.no_grad()
def test_a_save_that_dies_leaves_the_old_model_whole(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = build(), build()
    old.save_pretrained(tmp_path / "model")
    plain = open_mythos.checkpoint.store.write_tensors

    def dies(path: Path, *rest: Any) -> None:
        plain(path, *rest)
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(open_mythos.checkpoint.store, "write_tensors", dies)
        with pytest.raises(OSError, match="disk full"):
            new.save_pretrained(tmp_path / "model")
        with pytest.raises(OSError, match="disk full"):
            new.save_pretrained(tmp_path / "fresh")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    ids = tokens(old)
    assert torch.allclose(OpenMythos.from_pretrained(tmp_path / "model")(ids), old(ids), atol=1e-5)
    new.save_pretrained(tmp_path / "model")
    assert torch.allclose(OpenMythos.from_pretrained(tmp_path / "model")(ids), new(ids), atol=1e-5)


def test_damaged_foreign_and_pickled_folders_are_refused(build: Build, tmp_path: Path) -> None:
    def refuse(*shown: str, folder: Path = tmp_path / "model") -> None:
        with pytest.raises(CheckpointError) as caught:
            OpenMythos.from_pretrained(folder)
        for word in (str(tmp_path), *shown):
            assert word in str(caught.value), f"{word!r} is not in: {caught.value}"

    refuse("no folder", "model.safetensors")
    model = build()
    model.save_pretrained(tmp_path / "model")
    weights, config = tmp_path / "model/model.safetensors", tmp_path / "model/config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refuse("model.safetensors", "truncated", "use another copy")
    weights.write_bytes(whole[:-4] + b"\x00\x01\x02\x03")
    refuse("model.safetensors", "SHA-256")
    weights.write_bytes(whole)
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace('"dim": 16', '"dim": 24'), encoding="utf-8")
    refuse("config.json")
    (tmp_path / "model/manifest.json").unlink()
    refuse("embed.weight", "config")  # weights of another config, nothing else to notice it by
    weights.unlink()
    torch.save(model.state_dict(), tmp_path / "model/pytorch_model.bin")
    refuse("pytorch_model.bin", "pickle", "convert", "load_legacy")
    refuse("model.pt", "pickle", folder=tmp_path / "model.pt")


@torch.no_grad()
def test_from_state_names_what_does_not_fit(build: Build, tiny_config: Config) -> None:
    model = build()
    state = {k: v for k, v in model.state_dict().items() if k != "head.weight"}
    ids = tokens(model)
    assert torch.equal(OpenMythos.from_state(model.cfg, dict(state)).eval()(ids), model(ids))
    with pytest.raises(CheckpointError, match=r"(?s)elsewhere does not fit its config.*\[37, 16\]"):
        OpenMythos.from_state(tiny_config(dim=32), dict(state), source="elsewhere")
    for name in ("embed.weight", "recurrent.block.ffn.router.weight"):
        short = {k: v for k, v in state.items() if k != name}
        with pytest.raises(CheckpointError, match=name):
            OpenMythos.from_state(model.cfg, short)


@torch.no_grad()
def test_what_the_loops_did_is_noted_only_for_who_asks(
    tiny_config: Callable[..., MythosConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = OpenMythos(tiny_config()).eval()
    ids, asked = torch.randint(0, 37, (1, 5)), []
    run = model.recurrent.run

    def watch(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["observed"])
        return run(*args, **kwargs)

    monkeypatch.setattr(model.recurrent, "run", watch)
    plain, record = model(ids, 2), model(ids, 2, return_output=True)
    model.train()(ids, 2)
    assert asked == [False, True, True]
    assert torch.equal(plain, record.logits)
