import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.batch import Batch
from open_mythos.eval.doctor.measurements import LEAST, Measurements, examine
from open_mythos.eval.doctor.subject import Subject, depths
from open_mythos.eval.perplexity import score
from open_mythos.model.mythos import OpenMythos


Config = Callable[..., MythosConfig]
Shake = Callable[..., Any]


def of(trained: int = 2, **changes: Any) -> Subject:
    batches = tuple(Batch(ids, ids.roll(1, 1)) for ids in torch.randint(37, (2, 3, 8)))
    scored = dict.fromkeys(depths(trained), batches)
    return Subject("random", trained, batches[0], scored, **changes)


def test_every_number_is_that_of_the_pass(
    tiny_config: Config, randomised: Shake, attn_type: str, readout: str
) -> None:
    model = randomised(OpenMythos(tiny_config(attn_type=attn_type, readout=readout))).train()
    subject = of()
    m = examine(model, subject)
    assert model.training
    assert m.loops == LEAST
    model.eval()
    with torch.no_grad():
        model.recurrent.lockstep = True
        out = model(subject.probe.ids, LEAST, return_output=True)
        model.recurrent.lockstep = False
    assert m.sizes == pytest.approx(out.state_rms.tolist(), rel=1e-5)
    changes = (out.state_change / out.state_rms).tolist()
    assert m.residuals == pytest.approx(changes, rel=1e-4)
    assert m.growth == pytest.approx(float(out.state_rms[-1] / out.state_rms[1]), rel=1e-5)
    assert m.carry == model.recurrent.injection.spectral_radius()
    assert m.halts == (readout != "last")
    assert (m.experts, m.per_token) == (5, 2)
    assert sum(m.histogram) == pytest.approx(1.0)
    assert m.use.mean_loops == pytest.approx(
        sum(t * share for t, share in enumerate(m.histogram, start=1))
    )
    for point in m.curve.points:
        wanted = score(model, subject.scored[point.n_loops], point.n_loops)
        assert point.loss == pytest.approx(wanted.loss)
    assert m.jacobian is not None
    assert m.jacobian.radius <= m.jacobian.stretch * (1 + 1e-6)


def test_a_contracting_loop_forgets_where_it_started(tiny_config: Config) -> None:
    """With the block silenced h <- A h + B e, whose fixed point is B e / (1 - A)."""
    cfg = tiny_config(readout="last", lti_decay=0.1, loop_index=False, loop_lora=False)
    model = OpenMythos(cfg).eval()
    with torch.no_grad():
        model.recurrent.norm.weight.zero_()
    m = examine(model, of(trained=3))
    assert m.loops == 12
    assert m.period == 1
    assert m.starts.agreement == 1.0
    assert m.starts.distance < 1e-4
    assert m.moved == pytest.approx(0.0, abs=0.02)
    assert m.growth == pytest.approx(1.0, abs=0.02)
    with torch.no_grad():  # now nothing is forgotten: h grows by B e each time
        model.recurrent.injection.log_A.fill_(-30.0)
    m = examine(model, of(trained=3))
    assert m.carry == pytest.approx(1.0)
    assert m.starts.distance > 0.1
    assert m.growth == pytest.approx((1 + 0.1 * 12) / (1 + 0.1 * 3), rel=1e-4)


def test_an_injection_without_carry_has_none(tiny_config: Config) -> None:
    assert examine(OpenMythos(tiny_config(injection="add")), of()).carry is None


def test_what_is_not_finite_is_measured_all_the_same(tiny_config: Config) -> None:
    model = OpenMythos(tiny_config(readout="last"))
    with torch.no_grad():
        model.recurrent.injection.B.fill_(math.inf)
    m = examine(model, of())
    assert m.jacobian is None
    assert not math.isfinite(m.sizes[-1])
    plain = json.dumps(m.to_json(), allow_nan=False)
    assert json.loads(plain)["sizes"][-1] is None


def test_the_record_is_plain(sound: Measurements) -> None:
    plain = json.loads(json.dumps(sound.to_json()))
    assert plain["jacobian"]["radius"] == 0.7
    assert plain["curve"]["points"][1]["n_loops"] == 2
    assert plain["use"]["expert_load"][0] == [0.25] * 4
    assert plain["growth"] == pytest.approx(1.15 / 1.1)
