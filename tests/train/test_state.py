import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from open_mythos.checkpoint.store import read_tensors, write_tensors
from open_mythos.errors import CheckpointError
from open_mythos.train.curriculum import Progress
from open_mythos.train.optim import build_optimizer
from open_mythos.train.recipe import OptimConfig
from open_mythos.train.state import TrainState, own_rng


CPU = torch.device("cpu")


def learn(state: TrainState, steps: int) -> None:
    """Steps on a dropped-out regression: weights, moments and generator all move."""
    for _ in range(steps):
        x = torch.randn(8, 4)
        loss = nn.functional.dropout(state.model(x), 0.5).square().mean()
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()


def build(seed: int = 0) -> TrainState:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 1))
    return TrainState(model, build_optimizer(model, OptimConfig(lr=0.1)), CPU)


def weights(state: TrainState) -> list[Tensor]:
    return [p.detach().clone() for p in state.model.parameters()]


def test_a_state_put_back_goes_on_bit_for_bit(tmp_path: Path) -> None:
    with own_rng(CPU):
        state = build()
        learn(state, 5)
        write_tensors(tmp_path / "s.safetensors", state.tensors())
        model = copy.deepcopy(state.model.state_dict())
        learn(state, 5)

        other = build(seed=3)
        other.model.load_state_dict(model)
        other.load_tensors(read_tensors(tmp_path / "s.safetensors")[0])
        learn(other, 5)
    assert all(torch.equal(a, b) for a, b in zip(weights(state), weights(other), strict=True))
    one, two = state.tensors(), other.tensors()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_optimizer_state_is_found_by_name_in_any_order() -> None:
    with own_rng(CPU):
        state, other = build(), build(seed=1)
        learn(state, 3)
        shuffled = dict(reversed(state.tensors().items()))
        other.load_tensors(shuffled)
    assert torch.equal(state.tensors()["exp_avg/0.weight"], other.tensors()["exp_avg/0.weight"])


def test_a_parameter_that_never_had_a_gradient_has_no_state_and_needs_none() -> None:
    with own_rng(CPU):
        state, other = build(), build()
        state.model[0].weight.grad = torch.ones(6, 4)  # type: ignore[index,union-attr]
        state.optimizer.step()
        names = {k.partition("/")[2] for k in state.tensors()}
        assert names == {"0.weight", "cpu"}
        other.load_tensors(state.tensors())
        assert other.tensors().keys() == state.tensors().keys()


def test_state_of_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"'9\.weight'.*another recipe"):
        build().load_tensors({"exp_avg/9.weight": torch.ones(1)})


def test_counters_come_back_and_gaps_are_named() -> None:
    state, other = build(), build()
    state.step, state.tokens, state.skipped, state.skipped_in_a_row = 7, 900, 3, 2
    state.curriculum = Progress(level=2, accuracy=1 / 3, steps=4)
    state.progressed("sums", Progress(level=3, accuracy=2 / 3, steps=9))
    other.load_counters(state.counters())
    assert other.counters() == state.counters()
    assert other.progress("sums") == Progress(level=3, accuracy=2 / 3, steps=9)
    assert other.progress("parity") == other.progress("") == state.curriculum
    older = state.counters()
    del older["courses"]  # as files are that were written before there were any
    other.load_counters(older)
    assert other.progress("sums") == state.curriculum
    broken = state.counters()
    del broken["tokens"]
    with pytest.raises(CheckpointError, match="tokens"):
        other.load_counters(broken)


def test_a_block_with_its_own_generators_leaves_no_trace() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2, 3)
    torch.manual_seed(1)
    first = torch.rand(3)

    def fail() -> None:
        with own_rng(CPU):
            torch.manual_seed(5)
            torch.rand(9)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(torch.stack([first, torch.rand(3)]), expected)


class FakeAccelerator:
    """The generators of a kind of device, one for each index; index 0 is the current device."""

    def __init__(self) -> None:
        self.states = {None: 0, 0: 0, 1: 10, 2: 20}

    def get_rng_state(self, device: torch.device | None = None) -> Tensor:
        return torch.tensor([self.states[device.index if device else None]], dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: torch.device | None = None) -> None:
        self.states[device.index if device else None] = int(state)


def test_the_generator_of_the_runs_own_device_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeAccelerator()
    monkeypatch.setattr(torch, "get_device_module", lambda device: fake)
    with own_rng(torch.device("cuda:1")):
        fake.states = dict.fromkeys(fake.states, 99)
    assert fake.states == {None: 99, 0: 99, 1: 10, 2: 99}

    state, other = build(), build()
    state.device, other.device = torch.device("cuda:1"), torch.device("cuda:2")
    saved = state.tensors()
    with own_rng(CPU):
        other.load_tensors(saved)  # a run may move to another device of its kind
        assert fake.states == {None: 99, 0: 99, 1: 10, 2: 10}
        build().load_tensors(saved)  # and to a CPU, which has no such generator
    assert fake.states == {None: 99, 0: 99, 1: 10, 2: 10}
