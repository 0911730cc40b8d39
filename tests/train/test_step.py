import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from open_mythos.data.batch import Batch
from open_mythos.data.tasks import PointerChase
from open_mythos.model.mythos import OpenMythos
from open_mythos.train.curriculum import Progress
from open_mythos.train.depth import sample_depth
from open_mythos.train.recipe import Recipe
from open_mythos.train.schedule import learning_rate
from open_mythos.train.sources import build_sources
from open_mythos.train.state import TrainState
from open_mythos.train.step import load_peak, spectral_radius, train_step
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
    assert model.bias_steps == [tiny.router_bias_step, 0.0, 0.0, tiny.router_bias_step]


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
