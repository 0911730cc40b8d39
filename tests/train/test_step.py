import copy
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from open_mythos.config.budget import training_flops_per_token
from open_mythos.data.batch import IGNORE, Batch
from open_mythos.data.tasks.pointer import PointerChase
from open_mythos.errors import InputError
from open_mythos.model.mythos import OpenMythos
from open_mythos.train import spikes
from open_mythos.train.build import build_state
from open_mythos.train.curriculum import Progress
from open_mythos.train.depth import sample_depth, sample_depths
from open_mythos.train.recipe import DepthConfig, EngineConfig, Recipe
from open_mythos.train.records import StepRecord, timeless
from open_mythos.train.schedule import learning_rate
from open_mythos.train.sources import build_sources
from open_mythos.train.state import TrainState
from open_mythos.train.step import finish, launch, spectral_radius, train_step


@pytest.fixture
def quiet(tiny: Recipe) -> Recipe:
    """Without dropout, so that a step can be done again by hand."""
    return replace(tiny, model=replace(tiny.model, dropout=0.0))


def begin(recipe: Recipe, build: Any) -> tuple[TrainState, Any]:
    source = build_sources(recipe).train
    return build_state(recipe, source, torch.device("cpu"), build), source


def test_a_step_is_the_plain_training_loop(quiet: Recipe) -> None:
    """Against torch's own AdamW, cross entropy and clipping, written out, for three steps.

    In float64: AdamW's first steps turn the rounding of a gradient near zero into a whole step.
    """
    state, source = begin(quiet, lambda r: OpenMythos(r.model).double())
    twin, _ = begin(quiet, lambda r: OpenMythos(r.model).double())
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
        assert record.loss == pytest.approx(float(loss.detach()), rel=1e-9)
        assert record.grad_norm == pytest.approx(float(norm), rel=1e-9)
        assert (record.step, record.n_loops, record.level) == (step + 1, loops, 1)
        hits = (logits.argmax(-1) == batch.targets).double().mean()
        assert record.accuracy == pytest.approx(float(hits))
    for (name, p), q in zip(state.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_passes_change_a_step_by_rounding_only(
    quiet: Recipe, precision: Any, micro_batch: int
) -> None:
    """Also where rows have different numbers of targets, and where they do not divide evenly."""

    class Ragged:
        vocab_size, max_level = 2, 0

        def batch(self, step: int, level: int = 0, rows: Any = None) -> Batch:
            ids = torch.randint(2, (4, 6), generator=torch.Generator().manual_seed(step))
            targets = ids.flip(1).clone()
            for row in range(4):
                targets[row, : row + step] = IGNORE
            kept = list(range(4)) if rows is None else list(rows)
            return Batch(ids[kept], targets[kept])

    def run(micro: int) -> tuple[TrainState, list[StepRecord]]:
        recipe = replace(quiet, engine=EngineConfig(precision=precision, micro_batch=micro))
        recipe = replace(recipe, objective=replace(recipe.objective, z_loss=1e-2))
        state, _ = begin(
            recipe, lambda r: OpenMythos(r.model).to(torch.float64 if wide else torch.float32)
        )
        return state, [train_step(state, Ragged(), recipe) for _ in range(2)]

    wide = precision == "fp32"
    tolerance = 1e-9 if wide else 2e-2
    (one, whole), (two, parts) = run(0), run(micro_batch)
    for a, b in zip(whole, parts, strict=True):
        assert b.loss == pytest.approx(a.loss, rel=tolerance)
        assert b.terms == pytest.approx(a.terms, rel=tolerance)
        assert b.grad_norm == pytest.approx(a.grad_norm, rel=10 * tolerance)
        assert (b.tokens, b.n_loops) == (a.tokens, a.n_loops)
        if wide:
            assert b.accuracy == a.accuracy
            assert b.state_rms == pytest.approx(a.state_rms, rel=0.2)  # a mean of roots of means
            assert b.router_peak == a.router_peak
            assert b.mean_loops == pytest.approx(a.mean_loops)
    if wide:
        for (name, p), q in zip(one.model.named_parameters(), two.model.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("micro_batch", [0, 1, 3])
def test_rows_of_their_own_depth_are_each_run_as_often_as_drawn(
    quiet: Recipe, micro_batch: int
) -> None:
    """Against every row by itself, in float64; whatever the passes, the step is the same."""
    recipe = replace(
        quiet,
        depth=replace(quiet.depth, per="sequence"),
        engine=EngineConfig(micro_batch=micro_batch),
    )
    state, source = begin(recipe, lambda r: OpenMythos(r.model).double())
    twin, _ = begin(recipe, lambda r: OpenMythos(r.model).double())
    record = train_step(state, source, recipe)
    batch, size = source.batch(0, 1), recipe.data.batch_size
    depths = sample_depths(recipe.depth, recipe.seed, 0, None, size)
    assert len(set(depths)) > 1
    model = twin.model.train()
    losses = [
        torch.nn.functional.cross_entropy(
            model(batch.ids[row : row + 1], depths[row])[0], batch.targets[row]
        )
        for row in range(size)
    ]
    loss = torch.stack(losses).mean()
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    assert record.loss == pytest.approx(float(loss.detach()), rel=1e-9)
    assert record.grad_norm == pytest.approx(float(norm), rel=1e-9)
    assert record.n_loops == max(depths)
    assert record.given_loops == pytest.approx(sum(depths) / size)


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
    for each in (record.entropy_by_loop, record.peak_by_loop, record.dead_by_loop):
        assert len(each) == record.n_loops == record.given_loops
    assert sum(record.entropy_by_loop) / record.n_loops == pytest.approx(record.router_entropy)
    assert max(record.peak_by_loop) == record.router_peak
    assert record.router_dead is not None
    assert record.router_dead <= min(record.dead_by_loop)


@pytest.mark.parametrize("loops", [1, 3])
def test_the_record_says_whether_the_state_settles(quiet: Recipe, loops: int) -> None:
    recipe = replace(quiet, depth=DepthConfig(kind="fixed", mean=loops))
    state, source = begin(recipe, lambda r: OpenMythos(r.model))
    with torch.no_grad():
        out = state.model.train()(source.batch(0, 1).ids, loops, return_output=True)
    record = train_step(state, source, recipe)
    assert record.residual == pytest.approx(float(out.state_change[-1] / out.state_rms[-1]))
    ratio = float(out.state_rms[-1] / out.state_rms[0])
    assert record.state_growth == (None if loops == 1 else pytest.approx(ratio**0.5))


def test_a_network_that_does_not_say_has_no_residual(tiny: Recipe, stand_in: Any) -> None:
    state, source = begin(tiny, lambda r: stand_in(r.model))
    assert train_step(state, source, tiny).residual is None


def test_the_record_says_what_the_step_took(quiet: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(quiet, depth=replace(quiet.depth, backprop_loops=1), log_every=2)
    state, source = begin(recipe, lambda r: OpenMythos(r.model))
    forgotten = []
    monkeypatch.setattr("open_mythos.train.step.forget_memory", forgotten.append)
    monkeypatch.setattr("open_mythos.train.usage.peak_flops", lambda device, precision: 1e9)
    waiting = launch(state, source, recipe)
    with monkeypatch.context() as still:
        still.setattr("time.perf_counter", lambda: waiting.began + 4.0)
        record = finish(state, waiting, source, recipe)
    positions = recipe.data.batch_size * waiting.length
    flops = training_flops_per_token(recipe.model, max(waiting.depths), waiting.length, 1)
    assert (record.seconds, record.tokens_per_second) == (4.0, positions / 4.0)
    assert 0.0 < waiting.waited == record.waited < 4.0
    assert record.flops_per_second == pytest.approx(positions * flops / 4.0)
    assert record.mfu == pytest.approx(positions * flops / 4.0 / 1e9)
    assert record.memory is None or record.memory > 1e6
    assert record.scored_share == 1.0
    assert record.epoch is None
    train_step(state, source, recipe)
    assert forgotten == [state.device]  # after the second step, which is logged


class Halves:
    """Rows of which the second half is not scored; an epoch is eight steps."""

    vocab_size, max_level = 2, 0

    def batch(self, step: int, level: int = 0) -> Batch:
        ids = torch.zeros(2, 6, dtype=torch.int64)
        return Batch(ids, ids.masked_fill(torch.arange(6) > 2, IGNORE))

    def epoch(self, step: int) -> float:
        return step / 8


def test_padding_and_epochs_are_told(quiet: Recipe) -> None:
    state, _ = begin(quiet, lambda r: OpenMythos(r.model))
    records = [train_step(state, Halves(), quiet) for _ in range(2)]
    assert [r.scored_share for r in records] == [0.5, 0.5]
    assert [r.epoch for r in records] == [0.125, 0.25]


def test_an_injection_without_a_carry_has_no_spectral_radius(tiny: Recipe) -> None:
    assert spectral_radius(OpenMythos(replace(tiny.model, injection="add"))) is None


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
        runs.append((state, [timeless(asdict(r)) for r in records]))
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


def test_a_spike_is_left_out_and_counted_but_is_no_divergence(
    tiny: Recipe, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spikes, "SETTLE", 3)
    recipe = replace(
        tiny,
        optim=replace(tiny.optim, skip_spikes=20.0, clip=0.0),
        curriculum=replace(tiny.curriculum, first_level=0),  # no level whose end is a spike itself
    )
    state, source = begin(recipe, lambda r: stand_in(r.model, {5: 1e6}))
    for _ in range(4):
        assert not train_step(state, source, recipe).skipped
    before = {k: v.clone() for k, v in state.model.state_dict().items()}
    moments = {k: v.clone() for k, v in state.tensors().items() if k.startswith("exp")}
    record = train_step(state, source, recipe)
    assert record.skipped
    assert math.isfinite(record.grad_norm)
    assert (state.skipped, state.skipped_in_a_row) == (1, 0)
    assert all(torch.equal(v, before[k]) for k, v in state.model.state_dict().items())
    assert all(torch.equal(v, state.tensors()[k]) for k, v in moments.items())
    assert not train_step(state, source, recipe).skipped
    assert state.skipped == 1
