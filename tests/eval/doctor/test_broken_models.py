"""The doctor on real models: one that is sound, and others that are broken in one known way each.

Sums modulo 3 of up to eight terms, learnt for two seconds at dim 32. The sound model reads its last
state after a short carry and drew its depths. The one that is bound to its depth carries its state
far, is told its loop number, and was trained at four loops alone: it loses 0.8 nats at 16 (seed 0;
0.06 to 0.5 at others, by how much they have learnt). The others are the sound one, with something
set wrong.
"""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from open_mythos.config.mythos import SEED_LTI_DECAY
from open_mythos.eval.doctor.findings import Finding, diagnose, sound
from open_mythos.eval.doctor.measurements import Measurements, examine
from open_mythos.eval.doctor.subject import Subject, subject
from open_mythos.model.mythos import OpenMythos
from open_mythos.train.build import build_state
from open_mythos.train.networks import small
from open_mythos.train.recipe import (
    CurriculumConfig,
    DataConfig,
    DepthConfig,
    OptimConfig,
    Recipe,
)
from open_mythos.train.sources import build_sources
from open_mythos.train.step import train_step


STEPS = 70
SEED_LOOP: dict[str, Any] = {
    "lti_decay": SEED_LTI_DECAY,
    "loop_index": True,
    "loop_lora": True,
}


def recipe(depth: DepthConfig, **design: Any) -> Recipe:
    data = DataConfig(kind="sums", batch_size=32, task={"modulus": 3, "max_level": 8})
    vocab_size = data.build_task(seed=0).vocab_size
    return Recipe(
        name="sums",
        model=replace(small(vocab_size=vocab_size, dim=32, max_seq_len=16), **design),
        data=data,
        depth=depth,
        optim=OptimConfig(lr=5e-3, betas=(0.9, 0.98), warmup_steps=10, decay_embeddings=True),
        curriculum=CurriculumConfig(first_level=0),
        router_bias_step=0.02,
        steps=STEPS,
    )


def trained(chosen: Recipe) -> tuple[OpenMythos, Subject]:
    """The model of a recipe after its steps, and what it is examined on."""
    sources = build_sources(chosen)
    cpu = torch.device("cpu")
    state = build_state(chosen, sources.train, cpu, lambda r: OpenMythos(r.model))
    for _ in range(chosen.steps):
        train_step(state, sources.train, chosen)
    assert isinstance(state.model, OpenMythos)
    assert sources.evaluation is not None
    return state.model.eval(), subject(sources.evaluation, chosen.model, chosen)


@pytest.fixture(scope="module")
def healthy() -> tuple[OpenMythos, Subject]:
    return trained(recipe(DepthConfig(kind="poisson", mean=3, min=1, max=6)))


def judged(model: OpenMythos, subject: Subject) -> tuple[Measurements, tuple[Finding, ...]]:
    m = examine(model, subject)
    return m, diagnose(m)


def test_a_sound_model_passes(healthy: tuple[OpenMythos, Subject]) -> None:
    model, rows = healthy
    m, found = judged(model, rows)
    assert sound(found)
    assert not [finding for finding in found if finding.severity == "warning"]
    best = m.curve.at(m.trained)
    assert best.loss < math.log(3) - 0.2  # it has learnt something
    assert best.loss < m.curve.points[0].loss  # and loops help


@pytest.mark.parametrize("decay", [1.0 - 1e-9, 0.995])
def test_an_injection_that_forgets_nothing(
    healthy: tuple[OpenMythos, Subject], decay: float
) -> None:
    model, rows = copy.deepcopy(healthy)
    with torch.no_grad():
        model.recurrent.injection.log_A.fill_(math.log(-math.log(decay)))
        model.recurrent.injection.log_dt.zero_()
    _, found = judged(model, rows)
    assert not sound(found)
    assert found[0].kind == "unstable_injection"
    assert "rho(A) = " in found[0].says


def test_a_router_that_knows_two_experts(healthy: tuple[OpenMythos, Subject]) -> None:
    model, rows = copy.deepcopy(healthy)
    (ffn,) = model.recurrent.mixtures
    ffn.router_bias.copy_(torch.tensor([0.0, 1e3, 1e3, 0.0]))
    _, found = judged(model, rows)
    assert found[0].kind == "collapsed_router"
    assert found[0].severity == "fault"
    assert "2 of 4 experts serve 100%" in found[0].says


@pytest.mark.parametrize(("bias", "word"), [(20.0, "at once"), (-20.0, "never")])
def test_halting_that_is_dead(healthy: tuple[OpenMythos, Subject], bias: float, word: str) -> None:
    model, rows = healthy
    cfg = replace(model.cfg, readout="act")
    halting = OpenMythos.from_state(cfg, copy.deepcopy(model.state_dict())).eval()
    with torch.no_grad():
        halting.recurrent.act.halt.weight.zero_()
        halting.recurrent.act.halt.bias.fill_(bias)
    _, found = judged(halting, rows)
    assert found[0].kind == "dead_halting"
    assert found[0].severity == "fault"
    assert word in found[0].says


def test_a_state_that_drifts(healthy: tuple[OpenMythos, Subject]) -> None:
    """A carry of 0.97: not endless, but far longer than the trained depth."""
    model, rows = copy.deepcopy(healthy)
    with torch.no_grad():
        model.recurrent.injection.log_A.fill_(math.log(-math.log(0.97)))
        model.recurrent.injection.log_dt.zero_()
    m, found = judged(model, rows)
    assert found[0].kind == "drifting_state"
    assert found[0].severity == "fault"
    assert m.growth > 2.0


def test_a_state_that_drifts_without_any_carry(healthy: tuple[OpenMythos, Subject]) -> None:
    """Residual blocks add to the state, and no norm at the loop's border takes it back."""
    model, rows = healthy
    cfg = replace(model.cfg, injection="none", loop_norm="none")
    state = {name: t for name, t in model.state_dict().items() if ".injection." not in name}
    state.pop("recurrent.norm.weight")
    m, found = judged(OpenMythos.from_state(cfg, state).eval(), rows)
    assert m.carry is None
    assert found[0].kind == "drifting_state"
    assert found[0].severity == "fault"


def test_a_model_that_works_at_its_trained_depth_alone() -> None:
    chosen = recipe(DepthConfig(kind="fixed", mean=4), **SEED_LOOP)
    m, found = judged(*trained(chosen))
    assert found[0].kind == "fixed_depth"
    assert found[0].severity == "fault"
    assert "a V; training never drew another depth" in found[0].says
    assert m.curve.best.n_loops == 4
