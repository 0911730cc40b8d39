import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from open_mythos.data.batch import IGNORE, Batch
from open_mythos.data.tasks.pointer import PointerChase
from open_mythos.errors import InputError
from open_mythos.model.mythos import OpenMythos
from open_mythos.train.curriculum import Progress
from open_mythos.train.depth import sample_depth
from open_mythos.train.recipe import EngineConfig, Recipe
from open_mythos.train.schedule import learning_rate
from open_mythos.train.sources import build_sources
from open_mythos.train.state import TrainState
from open_mythos.train.step import finish, launch, load_peak, spectral_radius, train_step
from open_mythos.train.trainer import build_state


@pytest.fixture
def quiet(tiny: Recipe) -> Recipe:
    """Without dropout, so that a step can be done again by hand."""
    return replace(tiny, model=replace(tiny.model, dropout=0.0))


def begin(recipe: Recipe, build: Any) -> tuple[TrainState, Any]:
    source = build_sources(recipe).train
    return build_state(recipe, source, torch.device("cpu"), build), source


def test_a_step_is_the_plain_training_loop(quiet: Recipe) -> None:
    """Against torch's own AdamW, cross entropy and clipping, written out, for three steps."""
    state, source = begin(quiet, lambda r: OpenMythos(r.model))
    twin, _ = begin(quiet, lambda r: OpenMythos(r.model))
    model = twin.model
    optimizer = torch.optim.AdamW(
        [
            {"params": [p], "weight_decay": group["weight_decay"]}
            for group in twin.optimizer.param_groups
            for p in group["params"]
        ],
        betas=quiet.optim.betas,
    )
    for step in range(3):
        record = train_step(state, source, quiet)
        batch = source.batch(step, 1)
        loops = sample_depth(quiet.depth, quiet.seed, step)
        logits = model(batch.ids, loops)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), quiet.optim.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(quiet.optim, step, quiet.steps)
        optimizer.step()
        model.update_router_bias(quiet.router_bias_step)  # type: ignore[operator]
        assert record.loss == pytest.approx(float(loss.detach()), rel=1e-5)
        assert record.grad_norm == pytest.approx(float(norm), rel=1e-4)
        assert (record.step, record.n_loops, record.level) == (step + 1, loops, 1)
        hits = (logits.argmax(-1) == batch.targets).double().mean()
        assert record.accuracy == pytest.approx(float(hits))
    for (name, p), q in zip(state.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6, msg=name)


def test_a_batch_that_names_its_loops_is_obeyed(tiny: Recipe, stand_in: Any) -> None:
    recipe = replace(
        tiny,
        model=replace(tiny.model, vocab_size=5),
        data=replace(tiny.data, kind="pointer", states=5, queries=3, max_hops=9, loops_per_hop=3),
        curriculum=replace(tiny.curriculum, first_level=0),
    )
    state, source = begin(recipe, lambda r: stand_in(r.model))
    assert isinstance(source, PointerChase)
    for step in range(6):
        record = train_step(state, source, recipe)
        assert record.n_loops == source.batch(step).n_loops
        assert record.n_loops % 3 == 0


def test_a_step_that_is_not_finite_moves_nothing_and_is_counted(
    tiny: Recipe, stand_in: Any
) -> None:
    state, source = begin(tiny, lambda r: stand_in(r.model, {2: math.nan, 3: math.inf}))
    train_step(state, source, tiny)
    before = {k: v.clone() for k, v in state.model.state_dict().items()}
    moments = {k: v.clone() for k, v in state.tensors().items() if k.startswith("exp")}
    records = [train_step(state, source, tiny) for _ in range(2)]
    assert [r.skipped for r in records] == [True, True]
    assert (state.step, state.skipped, state.skipped_in_a_row) == (3, 2, 2)
    assert all(torch.equal(v, before[k]) for k, v in state.model.state_dict().items())
    assert all(torch.equal(v, state.tensors()[k]) for k, v in moments.items())
    assert not train_step(state, source, tiny).skipped
    assert (state.skipped, state.skipped_in_a_row) == (2, 0)
    assert all(p.isfinite().all() for p in state.model.parameters())
    model: Any = state.model
    step = tiny.router_bias_step
    assert model.bias_steps == pytest.approx([step, 0.0, 0.0, step])


def test_counters_levels_and_mode_move_with_the_step(tiny: Recipe, stand_in: Any) -> None:
    state, source = begin(tiny, lambda r: stand_in(r.model))
    state.model.eval()
    tokens = 0
    for _ in range(4):
        level = state.curriculum.level
        record = train_step(state, source, tiny)
        assert record.level == level
        tokens += tiny.data.batch_size * level
        assert record.tokens == state.tokens == tokens
        assert record.tokens_per_second > 0
    assert state.model.training
    assert state.curriculum != Progress(level=1)


def test_the_record_describes_the_loop(quiet: Recipe) -> None:
    state, source = begin(quiet, lambda r: OpenMythos(r.model))
    record = train_step(state, source, quiet)
    assert isinstance(state.model, OpenMythos)
    assert record.rho_a == state.model.recurrent.injection.spectral_radius()
    assert 1 <= record.mean_loops <= record.n_loops
    assert record.router_entropy is not None
    assert 0 <= record.router_entropy <= 1
    assert record.router_peak is not None
    assert 1 <= record.router_peak <= quiet.model.n_experts
    assert record.state_rms is not None
    assert record.state_rms > 0
    assert record.terms == {"cross_entropy": record.loss}


def test_an_injection_without_a_carry_has_no_spectral_radius(tiny: Recipe) -> None:
    assert spectral_radius(OpenMythos(replace(tiny.model, injection="add"))) is None


def test_the_peak_is_that_of_the_worst_loop() -> None:
    assert load_peak(torch.tensor([[2.0, 2.0], [1.0, 3.0]])) == 1.5
    assert load_peak(torch.tensor([[0.0, 8.0, 0.0, 0.0]])) == 4.0
    assert load_peak(torch.zeros(1, 3)) == 0.0


def test_random_depth_is_drawn_anew_each_step(tiny: Recipe, stand_in: Any) -> None:
    class Endless:
        vocab_size, max_level = 2, 0

        def batch(self, step: int, level: int = 0) -> Batch:
            ids = torch.zeros(1, 2, dtype=torch.int64)
            return Batch(ids, ids)

    state, _ = begin(tiny, lambda r: stand_in(r.model))
    drawn = [train_step(state, Endless(), tiny).n_loops for _ in range(12)]
    assert drawn == [sample_depth(tiny.depth, tiny.seed, step) for step in range(12)]
    assert len(set(drawn)) > 1


# -- launch and finish ---------------------------------------------------------------------------


def test_launch_and_finish_are_a_step(tiny: Recipe) -> None:
    """With dropout, a router bias and a curriculum in it; finished one step late, too."""
    runs = []
    for late in (0, 1):
        state, source = begin(tiny, lambda r: OpenMythos(r.model))
        torch.manual_seed(3)
        if not late:
            records = [train_step(state, source, tiny) for _ in range(3)]
        else:
            records, waiting = [], launch(state, source, tiny)
            assert (state.step, waiting.step, waiting.arrived) == (1, 1, None)
            assert state.curriculum == Progress(level=1)
            for _ in range(2):
                following = launch(state, source, tiny)
                records.append(finish(state, waiting, source, tiny))
                waiting = following
            records.append(finish(state, waiting, source, tiny))
        assert [r.tokens for r in records] == [4, 8, 12]
        runs.append((state, [replace(r, tokens_per_second=0.0) for r in records]))
    (a, wanted), (b, found) = runs
    assert found == wanted
    assert a.counters() == b.counters()
    for one, two in ((a.model.state_dict(), b.model.state_dict()), (a.tensors(), b.tensors())):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[k], two[k]) for k in one)


def test_launching_leaves_no_gradient_behind(quiet: Recipe) -> None:
    state, source = begin(quiet, lambda r: OpenMythos(r.model))
    launch(state, source, quiet)
    assert all(p.grad is None for p in state.model.parameters())


def test_where_steps_overlap_a_steps_time_starts_at_the_one_before(
    tiny: Recipe, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, source = begin(tiny, lambda r: stand_in(r.model))
    launched = launch(state, source, tiny)
    monkeypatch.setattr("time.perf_counter", lambda: launched.began + 8.0)
    rates = [
        finish(state, launched, source, tiny, since).tokens_per_second
        for since in (-math.inf, launched.began - 5.0, launched.began + 6.0)
    ]
    assert rates == pytest.approx([4 / 8.0, 4 / 8.0, 4 / 2.0])


def test_only_the_last_loops_are_differentiated_where_the_recipe_says_so(quiet: Recipe) -> None:
    """The loss is that of all loops; the gradient that of a state cut loose before the last."""
    norms, losses = [], []
    for backprop in (None, 9, 1):
        depth = replace(quiet.depth, kind="fixed", mean=4, backprop_loops=backprop)
        recipe = replace(quiet, depth=depth)
        state, source = begin(recipe, lambda r: OpenMythos(r.model))
        twin = copy.deepcopy(state.model)
        record = train_step(state, source, recipe)
        norms.append(record.grad_norm)
        losses.append(record.loss)
    assert losses[0] == losses[1] == losses[2]
    assert norms[0] == norms[1]
    assert abs(norms[2] - norms[0]) > 1e-3 * norms[0]
    batch = source.batch(0, 1)
    logits = twin.train()(batch.ids, 4, backprop_loops=1)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten()).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in twin.parameters() if p.grad is not None])
    assert norms[2] == pytest.approx(float(norm), rel=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_batch_without_targets_is_refused_before_anything_moves(
    tiny: Recipe, stand_in: Any, precision: Any
) -> None:
    class Mute:
        vocab_size, max_level = 2, 0

        def batch(self, step: int, level: int = 0) -> Batch:
            ids = torch.zeros(2, 3, dtype=torch.int64)
            return Batch(ids, torch.full_like(ids, IGNORE))

    recipe = replace(tiny, engine=EngineConfig(precision=precision))
    state, _ = begin(recipe, lambda r: stand_in(r.model))
    before = copy.deepcopy(state.model.state_dict())
    with pytest.raises(InputError, match="none of the 6 targets is scored"):
        train_step(state, Mute(), recipe)
    assert (state.step, state.tokens) == (0, 0)
    assert all(torch.equal(v, before[k]) for k, v in state.model.state_dict().items())


# -- 16 bits -------------------------------------------------------------------------------------


@pytest.fixture
def narrow(quiet: Recipe) -> Recipe:
    return replace(quiet, engine=EngineConfig(precision="bf16"))


def test_a_16_bit_step_is_near_the_float32_one(quiet: Recipe, narrow: Recipe) -> None:
    state, source = begin(quiet, lambda r: OpenMythos(r.model))
    twin, _ = begin(narrow, lambda r: OpenMythos(r.model))
    exact, near = train_step(state, source, quiet), train_step(twin, source, narrow)
    assert near.loss == pytest.approx(exact.loss, rel=1e-2)
    assert near.grad_norm == pytest.approx(exact.grad_norm, rel=5e-2)
    assert near.loss != exact.loss
    working: Any = twin.working.model
    assert working is not twin.model
    for mine, copied in zip(twin.model.parameters(), working.parameters(), strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(copied, mine.bfloat16())
        assert mine.grad is None
        assert copied.grad is None
    assert all(
        v.dtype == torch.float32 for k, v in twin.tensors().items() if not k.startswith("rng/")
    )


def test_a_16_bit_step_that_is_not_finite_moves_nothing(tiny: Recipe, stand_in: Any) -> None:
    recipe = replace(tiny, engine=EngineConfig(precision="bf16"))
    state, source = begin(recipe, lambda r: stand_in(r.model, {2: math.nan, 3: math.inf}))
    train_step(state, source, recipe)
    models = (state.model, state.working.model)
    before = [copy.deepcopy(m.state_dict()) for m in models]
    moments = {k: v.clone() for k, v in state.tensors().items() if not k.startswith("rng/")}
    assert moments
    assert [train_step(state, source, recipe).skipped for _ in range(2)] == [True, True]
    for model, old in zip(models, before, strict=True):
        assert all(torch.equal(v, old[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(v, state.tensors()[k]) for k, v in moments.items())
    assert not train_step(state, source, recipe).skipped
    assert any(not torch.equal(v, before[0][k]) for k, v in state.model.state_dict().items())
    assert all(p.isfinite().all() for model in models for p in model.parameters())
