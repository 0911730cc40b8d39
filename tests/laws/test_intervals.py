from typing import Any

import numpy as np
import pytest

from open_mythos.errors import InputError
from open_mythos.laws.fit import fit
from open_mythos.laws.intervals import Bootstrap, bootstrap
from open_mythos.laws.law import TEST_TIME, TRAINING
from open_mythos.laws.points import Points
from open_mythos.laws.published import PARCAE


CURVE = {"Linf": 2.7, "Z": 1.2, "z": 0.35}
LOOPS = np.arange(1.0, 25.0)


def curve(rng: np.random.Generator, noise: float = 0.01) -> Points:
    loss = TEST_TIME.predict(CURVE, {"loops": LOOPS})
    return Points("c", loss * np.exp(noise * rng.standard_normal(len(LOOPS))), {"loops": LOOPS})


@pytest.fixture(scope="module")
def found() -> Bootstrap:
    return bootstrap(fit(TEST_TIME, curve(np.random.default_rng(7))), 80)


@pytest.mark.parametrize("name", PARCAE)
@pytest.mark.parametrize("noise", [0.01, 0.001])
def test_parcaes_constants_lie_in_the_intervals_of_their_noisy_losses(
    name: str, noise: float, parcae_grid: Any
) -> None:
    inputs = parcae_grid(name)
    drawn = noise * np.random.default_rng(0).standard_normal(len(inputs["tokens"]))
    loss = TRAINING.predict(PARCAE[name], inputs) * np.exp(drawn)
    found = bootstrap(fit(TRAINING, Points(name, loss, inputs)), 100)
    ranges = found.intervals()
    missed = {n: (c, ranges[n]) for n, c in PARCAE[name].items() if c not in ranges[n]}
    assert not missed
    # One percent is more than the term of N changes by (0.1 of 3 nats), and the fit says so.
    if noise == 0.01:
        assert any("hardly fix a" in note for note in found.notes())


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    # 60 % intervals of 24 draws: 14.4 are expected to hold, and 7 to 21 within 3 deviations.
    held = dict.fromkeys(CURVE, 0)
    for draw in range(24):
        ranges = bootstrap(
            fit(TEST_TIME, curve(np.random.default_rng((1, draw)))), 30, level=0.6
        ).intervals()
        for name, value in CURVE.items():
            held[name] += value in ranges[name]
    assert all(7 <= count <= 21 for count in held.values()), held


def test_draws_depend_on_the_seed_and_their_number_alone(found: Bootstrap) -> None:
    more = bootstrap(found.fit, 90)
    other = bootstrap(found.fit, 5, seed=1)
    for name, values in found.draws.items():
        np.testing.assert_array_equal(more.draws[name][:80], values)
        assert not np.allclose(other.draws[name], values[:5], rtol=1e-9)


def test_less_noise_is_a_narrower_interval(rng: np.random.Generator, found: Bootstrap) -> None:
    quiet = bootstrap(fit(TEST_TIME, curve(rng, 0.001)), 40).intervals()
    for name, loud in found.intervals().items():
        assert quiet[name].high - quiet[name].low < 0.4 * (loud.high - loud.low)


def test_a_higher_level_is_a_wider_interval(found: Bootstrap) -> None:
    narrow = Bootstrap(found.fit, found.draws, 0.5).intervals()
    for name, wide in found.intervals().items():
        assert wide.low < narrow[name].low < narrow[name].high < wide.high
        assert np.mean([v in narrow[name] for v in found.draws[name]]) == pytest.approx(
            0.5, abs=0.03
        )


def test_what_follows_has_the_interval_of_what_it_follows_from(found: Bootstrap) -> None:
    value, interval = found.derived()["half_life"]
    z = found.intervals()["z"]
    assert value == pytest.approx(np.log(2) / found.fit.constants["z"])
    assert interval.low == pytest.approx(np.log(2) / z.high, rel=0.02)
    assert interval.high == pytest.approx(np.log(2) / z.low, rel=0.02)


def test_the_band_is_that_of_the_curves(found: Bootstrap) -> None:
    at = np.array([1.0, 6.5, 100.0])
    low, high = found.band({"loops": at})
    law = TEST_TIME.predict(found.fit.constants, {"loops": at})
    assert (low < law).all()
    assert (law < high).all()
    floor = found.intervals()["Linf"]
    assert (low[-1], high[-1]) == pytest.approx((floor.low, floor.high), rel=1e-6)


def test_notes_say_what_to_distrust(found: Bootstrap, rng: np.random.Generator) -> None:
    assert found.notes() == []
    few = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    loss = TEST_TIME.predict(CURVE, {"loops": few}) * (1 + 1e-4 * rng.standard_normal(5))
    rough = bootstrap(fit(TEST_TIME, Points("few", loss, {"loops": few})), 5)
    assert rough.notes() == ["5 points for 3 constants: the intervals are rough"]
    edge = {
        n: np.append(v, 20.0) if n == "z" else np.append(v, v[0]) for n, v in found.draws.items()
    }
    cut = Bootstrap(found.fit, edge, 0.999999)
    assert any("hardly fix z: its interval ends" in note for note in cut.notes())
    sunk = {n: np.append(v, 0.0 if n == "Linf" else v[0]) for n, v in found.draws.items()}
    (note,) = Bootstrap(found.fit, sunk, 0.999999).notes()
    assert "hardly fix Linf" in note


@pytest.mark.parametrize(
    ("words", "said"), [({"resamples": 0}, "resamples is 0"), ({"level": 1.0}, "level is 1.0")]
)
def test_numbers_that_make_no_interval_are_refused(
    found: Bootstrap, words: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        bootstrap(found.fit, **words)
