"""How a model is run changes neither losses nor gradients, and costs what it says."""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from open_mythos.errors import ConfigError
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.moe.layer import MoEFFN
from open_mythos.parallel.apply import apply
from tests.parallel.twin import alone, network, spread_out, together
from tests.parallel.workers import Workers


ROWS, LENGTH = 2, 9

# Dynamo looks at .grad of what enters a graph, and hides the warning about it in its own way.
compiles = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Graphs recorded so far. The backend runs them as they are: Inductor takes minutes here."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.config.recompile_limit = limit
    torch._dynamo.reset()
    counters.clear()


@pytest.fixture
def twins(tiny_config: Any, randomised: Any) -> Callable[..., tuple[OpenMythos, OpenMythos]]:
    """`twins(**changes)`: one randomised network twice, in training mode.

    In float64, where another order of summation cannot change who is routed where.
    """

    def make(**changes: Any) -> tuple[OpenMythos, OpenMythos]:
        model = randomised(OpenMythos(tiny_config(**changes)).double())
        twin = OpenMythos(model.cfg).double()
        twin.load_state_dict(model.state_dict())
        return model.train(), twin.train()

    return make


def learn(model: OpenMythos, ids: Tensor, loops: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The loss of a pass, and its gradients in one row; zeros where there is none."""
    torch.manual_seed(seed)
    model.zero_grad()
    loss = model(ids, loops).square().mean()
    loss.backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return loss.detach(), torch.cat([g.flatten() for g in grads])


def served(model: OpenMythos) -> Tensor:
    """Tokens that each expert is on record to have served."""
    ffn = model.recurrent.block.ffn
    assert isinstance(ffn, MoEFFN)
    return ffn.load


def agree(one: OpenMythos, other: OpenMythos, loops: int, seed: int = 0) -> None:
    ids = torch.randint(37, (ROWS, LENGTH))
    for a, b in zip(learn(one, ids, loops, seed), learn(other, ids, loops, seed), strict=True):
        assert b.norm() > 0
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    assert torch.equal(served(one), served(other))


class Kept(TorchDispatchMode):
    """Counts the bytes of what is made inside it and still held by anybody."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for part in tree_iter(out):
            if isinstance(part, Tensor):
                storage = part.untyped_storage()
                self._seen[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return out

    @property
    def bytes(self) -> int:
        return sum(size for ref, size in self._seen.values() if not ref.expired())


def per_loop(model: OpenMythos, ids: Tensor) -> float:
    """States (B, S, dim) that one more loop holds until the backward pass."""
    held = []
    for loops in (4, 10):
        with Kept() as kept:
            logits = model(ids, loops)
            held.append(kept.bytes)
        del logits
    state = ids.numel() * model.cfg.dim * model.embed.weight.element_size()
    return (held[1] - held[0]) / 6 / state


# -- checkpointing -------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["act", "last"])
@pytest.mark.parametrize("halted", ["continue", "freeze"])
def test_computing_loops_again_changes_no_gradient(
    twins: Any, attn_type: str, readout: str, halted: str
) -> None:
    model, twin = twins(attn_type=attn_type, readout=readout, halted=halted)
    assert apply(model, checkpointed=True) is model
    for loops in (1, 4):
        agree(model, twin, loops)


@pytest.mark.parametrize("kv", ["first", "last"])
def test_keys_shared_between_loops_are_computed_again_too(twins: Any, kv: str) -> None:
    model, twin = twins(kv=kv)
    agree(apply(model, checkpointed=True), twin, 4)


def test_the_way_back_draws_the_same_dropout(twins: Any) -> None:
    model, twin = twins(dropout=0.3)
    apply(model, checkpointed=True)
    agree(model, twin, 3, seed=5)
    ids = torch.zeros(ROWS, LENGTH, dtype=torch.int64)
    assert learn(model, ids, 3, seed=5)[0] != learn(model, ids, 3, seed=6)[0]


@pytest.mark.parametrize(("readout", "most"), [("act", 3.0), ("last", 1.5)])
def test_only_state_and_readout_are_kept_of_a_loop(
    twins: Any, attn_type: str, readout: str, most: float
) -> None:
    """The tables of a position (halted, weight, loops used, ...) are a part of a state in all."""
    model, twin = twins(attn_type=attn_type, readout=readout, dim=64)
    apply(model, checkpointed=True)
    ids = torch.randint(37, (ROWS, 32))
    assert 1.0 <= per_loop(model, ids) <= most
    assert per_loop(twin, ids) >= 12.0


def test_without_gradient_nothing_is_checkpointed(
    twins: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, twin = twins()
    apply(model, checkpointed=True)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("open_mythos.parallel.apply.checkpoint", refuse)
    ids = torch.randint(37, (ROWS, LENGTH))
    with torch.no_grad():
        assert torch.equal(model(ids, 3), twin(ids, 3))
    with pytest.raises(AssertionError):
        model(ids, 3)


def test_asked_for_nothing_it_does_nothing(twins: Any) -> None:
    model, _ = twins()
    apply(model)
    assert "turn" not in vars(model.recurrent)
    assert all("run" not in vars(block) for block in (*model.prelude, *model.coda))


# -- compilation ---------------------------------------------------------------------------------


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("readout", ["act", "last"])
def test_two_graphs_serve_every_depth(
    twins: Any, compiler: Callable[[], int], attn_type: str, readout: str
) -> None:
    """One for the dense blocks and one for a turn of the loop, whole, whatever the depth."""
    model, twin = twins(attn_type=attn_type, readout=readout, prelude_layers=2)
    apply(model, compiled=True)
    for loops in (3, 1, 5, 8):
        agree(model, twin, loops)
    assert compiler() == 2
    for loops in torch.randint(1, 13, (4,)).tolist():
        agree(model, twin, loops)
    assert compiler() == 2
    assert not counters["graph_break"]
    assert not counters["recompile_limit"]


@compiles
@pytest.mark.slow
def test_each_length_has_its_graphs(twins: Any, compiler: Callable[[], int]) -> None:
    """Two more for every length, whichever comes when; none of them for any length."""
    model, twin = twins()
    apply(model, compiled=True)
    for lengths, graphs in ([LENGTH], 2), ([LENGTH + 3, LENGTH], 4), ([LENGTH + 5] * 2, 6):
        for length in lengths:
            ids = torch.randint(37, (ROWS, length))
            for a, b in zip(learn(model, ids, 3, 0), learn(twin, ids, 3, 0), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
        assert compiler() == graphs
    assert not counters["recompile_limit"]


@compiles
@pytest.mark.slow
@pytest.mark.parametrize(
    ("backprop_loops", "turns", "changes"),
    [
        (None, 2, {}),  # any number of rows, and one
        (2, 4, {"readout": "last", "attn_type": "mla"}),  # and both without gradient
        (None, 6, {"halted": "freeze"}),  # and both before the first halt, and right behind it
    ],
    ids=["plain", "truncated", "frozen"],
)
def test_a_handful_of_graphs_serves_rows_of_any_depths(
    twins: Any, compiler: Callable[[], int], backprop_loops: int | None, turns: int, changes: Any
) -> None:
    model, twin = twins(**changes)
    apply(model, compiled=True)
    ids = torch.randint(37, (6, LENGTH))
    mask = torch.ones_like(ids)
    mask[2, :3] = 0
    first = [[3, 1, 5, 2, 8, 8], [8, 1, 2, 3, 4, 5], [1, 1, 1, 1, 1, 7]]
    for depths in (*first, *torch.randint(1, 9, (4, 6)).tolist()):
        losses = []
        for one in (model, twin):
            one.zero_grad()
            logits = one(ids, depths, attention_mask=mask, backprop_loops=backprop_loops)
            loss = logits[mask.bool()].square().mean()
            loss.backward()
            grads = [p.grad for p in one.parameters() if p.grad is not None]
            losses.append((loss.detach(), torch.cat([g.flatten() for g in grads])))
        torch.testing.assert_close(*losses, rtol=1e-8, atol=1e-10)
        assert torch.equal(served(model), served(twin))
        if depths == first[-1]:
            found = compiler()
    assert compiler() == found <= 1 + turns
    assert not counters["graph_break"]
    assert not counters["recompile_limit"]


@compiles
@pytest.mark.slow
def test_rows_of_one_depth_keep_their_graph(twins: Any, compiler: Callable[[], int]) -> None:
    model, twin = twins()
    apply(model, compiled=True)
    agree(model, twin, 3)
    ids = torch.randint(37, (ROWS, LENGTH))
    torch.testing.assert_close(model(ids, [3, 3]), twin(ids, [3, 3]), rtol=1e-8, atol=1e-10)
    assert compiler() == 3
    for loops in (1, 6):
        agree(model, twin, loops)
    assert compiler() == 3


@compiles
@pytest.mark.slow
def test_loops_with_corrections_compile(twins: Any, compiler: Callable[[], int]) -> None:
    model, twin = twins(core_ffn="dense", core_lora_rank=2, readout="last", attn_type="gqa")
    apply(model, compiled=True)
    ids = torch.randint(37, (ROWS, LENGTH))
    for loops in (3, 1, 6):
        for a, b in zip(learn(model, ids, loops), learn(twin, ids, loops), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    assert not counters["graph_break"]
    assert not counters["recompile_limit"]


@compiles
@pytest.mark.slow
def test_compiled_loops_can_be_computed_again(twins: Any, compiler: Callable[[], int]) -> None:
    model, twin = twins(dim=64)
    apply(model, compiled=True, checkpointed=True)
    for loops in (3, 1, 6):
        agree(model, twin, loops)
    assert per_loop(model, torch.randint(37, (ROWS, 32))) <= 3.0
    assert not counters["graph_break"]


@compiles
@pytest.mark.slow
def test_evaluation_runs_as_written_unless_asked(twins: Any, compiler: Callable[[], int]) -> None:
    model, twin = twins()
    ids = torch.randint(37, (ROWS, LENGTH))
    expected = twin.eval()(ids, 3)
    assert torch.equal(apply(model, compiled=True).eval()(ids, 3), expected)
    assert compiler() == 0
    torch.testing.assert_close(apply(twin, compiled=True, inference=True)(ids, 3), expected)
    assert compiler() == 2


def test_every_dense_block_and_the_turn_are_compiled_and_nothing_else(
    twins: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = twins(prelude_layers=2, coda_layers=3)
    given: list[nn.Module] = []

    def note(call: Any) -> Any:
        given.append(call.__self__)
        return call

    monkeypatch.setattr(torch, "compile", note)
    apply(model, compiled=True)
    assert given == [model.recurrent, *model.prelude, *model.coda]


# -- many ranks ----------------------------------------------------------------------------------


LAYOUTS: list[dict[str, int]] = [
    {},
    {"shard": 2},
    {"expert": 2},
    {"shard": 2, "expert": 2},
    {"tensor": 2},
]
NETWORKS: list[dict[str, Any]] = [
    {"attn_type": "gqa", "readout": "act"},
    {"attn_type": "mla", "readout": "last"},
]


@pytest.mark.slow
@pytest.mark.parametrize("degrees", LAYOUTS, ids=str)
@pytest.mark.parametrize("changes", NETWORKS, ids=str)
def test_twenty_losses_of_two_ranks_are_those_of_one(
    two: Workers, changes: dict[str, Any], degrees: dict[str, int]
) -> None:
    for passes in (1, 2):
        for losses in two(partial(together, degrees, passes=passes, **changes)):
            torch.testing.assert_close(losses, alone(**changes), rtol=0, atol=1e-5)


FOURFOLD: list[dict[str, int]] = [
    {"data": 2, "shard": 2},
    {"expert": 2},
    {"data": 2, "shard": 2, "expert": 2},
    {"shard": 4, "expert": 2},
    {"tensor": 2},
    {"tensor": 2, "shard": 2},
    {"tensor": 2, "shard": 2, "expert": 2},
]


@pytest.mark.slow
@pytest.mark.parametrize("degrees", FOURFOLD, ids=str)
def test_four_ranks_in_two_directions_are_one_network(
    four: Workers, degrees: dict[str, int]
) -> None:
    for losses in four(partial(together, degrees, steps=8)):
        torch.testing.assert_close(losses, alone(steps=8), rtol=0, atol=1e-5)


def _everything_at_once(degrees: dict[str, int]) -> Any:
    """Checkpointed, compiled and spread; graphs are run as they are recorded."""
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor")  # see `compiles`
    warnings.filterwarnings("ignore", ".*should not be instantiated")  # by Dynamo itself
    whole = torch.compile
    torch.compile = partial(whole, backend="aot_eager")
    torch._dynamo.reset()
    counters.clear()
    try:
        losses = together(degrees, steps=4, how={"compiled": True, "checkpointed": True})
    finally:
        torch.compile = whole
    return losses, counters["stats"]["unique_graphs"], dict(counters["graph_break"])


@pytest.mark.slow
def test_what_is_spread_may_be_compiled_and_recomputed(two: Workers) -> None:
    """Dealt out experts break the graph (tests/parallel/test_experts.py); nothing else does."""
    expected = alone(steps=4)
    for degrees in ({}, {"shard": 2}, {"tensor": 2}):
        for losses, graphs, breaks in two(_everything_at_once, degrees):
            torch.testing.assert_close(losses, expected, rtol=0, atol=1e-5)
            assert graphs == 2
            assert not breaks


def _refused(degrees: dict[str, int]) -> str:
    try:
        spread_out(network(n_experts=5, n_heads=1, n_kv_heads=1), degrees)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_a_network_that_does_not_divide_is_refused_before_anything_is_changed(
    two: Workers,
) -> None:
    assert all("n_experts (5)" in words for words in two(_refused, {"expert": 2}))
    assert all("n_heads (1)" in words for words in two(_refused, {"tensor": 2}))
