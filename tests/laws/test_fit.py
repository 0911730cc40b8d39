from typing import Any

import numpy as np
import pytest
from scipy.optimize import curve_fit, minimize

from open_mythos.laws.fit import DELTA, Fit, Problem, fit, huber, spread
from open_mythos.laws.law import ISO_DEPTH, TEST_TIME, TRAINING, Array, Law
from open_mythos.laws.points import Points
from open_mythos.laws.published import PARCAE, SCHWETHELM


CURVE = {"Linf": 2.7, "Z": 1.2, "z": 0.35}
LOOPS = np.arange(1.0, 25.0)


def noisy(law: Law, constants: Any, inputs: Any, noise: Array | float = 0.0) -> Points:
    return Points("points", law.predict(constants, inputs) * np.exp(noise), inputs)


def assert_same(found: Fit, constants: Any, rel: float) -> None:
    assert dict(found.constants) == pytest.approx(dict(constants), rel=rel)


@pytest.mark.parametrize("name", PARCAE)
def test_parcaes_constants_come_back_from_their_own_losses(name: str, parcae_grid: Any) -> None:
    found = fit(TRAINING, noisy(TRAINING, PARCAE[name], parcae_grid(name)))
    assert_same(found, PARCAE[name], 1e-5)
    assert found.rms < 1e-9


def test_phi_comes_back_from_its_own_losses(schwethelm_grid: Any) -> None:
    found = fit(ISO_DEPTH, noisy(ISO_DEPTH, SCHWETHELM, schwethelm_grid))
    assert_same(found, SCHWETHELM, 1e-5)


def test_a_curve_comes_back_wherever_it_bends(rng: np.random.Generator) -> None:
    for _ in range(8):
        constants = {
            "Linf": rng.uniform(0.1, 4.0),
            "Z": rng.uniform(0.01, 5.0),
            "z": np.exp(rng.uniform(np.log(0.03), np.log(4.0))),
        }
        found = fit(TEST_TIME, noisy(TEST_TIME, constants, {"loops": LOOPS}))
        assert_same(found, constants, 1e-5)


def test_small_noise_is_fitted_as_by_least_squares(
    rng: np.random.Generator, parcae_grid: Any
) -> None:
    # Below delta Huber's loss is a square; least squares of the logarithm is scipy's own business.
    noise = np.clip(2e-4 * rng.standard_normal(36), -4e-4, 4e-4)
    inputs = parcae_grid("140M")
    points = noisy(TRAINING, PARCAE["140M"], inputs, noise)
    found = fit(TRAINING, points)
    assert found.delta == DELTA
    scale = np.array([1e8, 1e9])

    def log_loss(x: Array, e: float, a0: float, b0: float, a: float, b: float) -> Array:
        return np.log(e + a0 * x[0] ** -a + b0 * x[1] ** -b)

    there = PARCAE["140M"]
    start = (
        there["E"],
        there["A"] * scale[0] ** -there["a"],
        there["B"] * scale[1] ** -there["b"],
        there["a"],
        there["b"],
    )
    x = np.stack([inputs["params"] / scale[0], inputs["tokens"] / scale[1]])
    (e, a0, b0, a, b), _ = curve_fit(log_loss, x, np.log(points.loss), p0=start, xtol=1e-13)
    want = {"E": e, "A": a0 * scale[0] ** a, "B": b0 * scale[1] ** b, "a": a, "b": b}
    assert_same(found, want, 1e-3)


def test_no_other_minimiser_finds_a_smaller_huber_loss(rng: np.random.Generator) -> None:
    noise = 0.01 * rng.standard_normal(len(LOOPS))
    noise[5] = 0.2
    points = noisy(TEST_TIME, CURVE, {"loops": LOOPS}, noise)
    found = fit(TEST_TIME, points)
    assert found.delta > DELTA

    def cost(at: Array) -> float:
        law = at[0] + at[1] * np.exp(-at[2] * LOOPS)
        if (law <= 0).any():
            return np.inf
        return float(huber(np.log(points.loss / law), found.delta).sum())

    ours = np.array(list(found.constants.values()))
    options = {"xatol": 1e-10, "fatol": 1e-14, "maxiter": 4000}
    other = minimize(cost, list(CURVE.values()), method="Nelder-Mead", options=options)
    assert cost(ours) <= other.fun * (1 + 1e-7)
    np.testing.assert_allclose(ours, other.x, rtol=1e-3)


def test_one_wrong_point_hardly_moves_it(rng: np.random.Generator) -> None:
    noise = 0.002 * rng.standard_normal(len(LOOPS))
    noise[-1] = 0.5
    points = noisy(TEST_TIME, CURVE, {"loops": LOOPS}, noise)
    floor = fit(TEST_TIME, points).constants["Linf"]
    squares, _ = curve_fit(
        lambda t, low, high, rate: np.log(low + high * np.exp(-rate * t)),
        LOOPS,
        np.log(points.loss),
        p0=list(CURVE.values()),
    )
    assert abs(floor - CURVE["Linf"]) < 0.01
    assert abs(squares[0] - CURVE["Linf"]) > 5 * abs(floor - CURVE["Linf"])


def test_the_unit_of_tokens_changes_its_amplitude_alone(parcae_grid: Any) -> None:
    inputs = parcae_grid("370M")
    points = noisy(TRAINING, PARCAE["370M"], inputs, 1e-4 * np.cos(np.arange(18.0)))
    plain = fit(TRAINING, points).constants
    billions = fit(
        TRAINING, Points("b", points.loss, inputs | {"tokens": inputs["tokens"] / 1e9})
    ).constants
    for name in ("E", "A", "a", "b"):
        assert billions[name] == pytest.approx(plain[name], rel=1e-4)
    assert billions["B"] == pytest.approx(plain["B"] * 1e9 ** -plain["b"], rel=1e-4)


def test_the_order_of_points_does_not_matter(rng: np.random.Generator) -> None:
    points = noisy(TEST_TIME, CURVE, {"loops": LOOPS}, 0.01 * rng.standard_normal(len(LOOPS)))
    order = rng.permutation(len(LOOPS))
    mixed = fit(TEST_TIME, Points("m", points.loss[order], {"loops": LOOPS[order]}))
    assert_same(mixed, fit(TEST_TIME, points).constants, 1e-6)


def test_a_fit_says_how_it_fits(rng: np.random.Generator) -> None:
    points = noisy(TEST_TIME, CURVE, {"loops": LOOPS}, 0.01 * rng.standard_normal(len(LOOPS)))
    found = fit(TEST_TIME, points)
    np.testing.assert_allclose(found.fitted, TEST_TIME.predict(found.constants, points.inputs))
    rest = [np.log(a / b) for a, b in zip(points.loss, found.fitted, strict=True)]
    assert found.rms == pytest.approx((sum(r * r for r in rest) / (len(rest) - 3)) ** 0.5)
    small = [0.5 * r * r if abs(r) <= 1e-3 else 1e-3 * (abs(r) - 0.5e-3) for r in rest]
    assert found.huber == pytest.approx(sum(small) / len(small))


def test_the_jacobian_is_the_slope(rng: np.random.Generator, schwethelm_grid: Any) -> None:
    problem = Problem(ISO_DEPTH, noisy(ISO_DEPTH, SCHWETHELM, schwethelm_grid))
    at = problem.coordinates(SCHWETHELM)
    assert problem.constants(at) == pytest.approx(dict(SCHWETHELM))
    step = 1e-5 * rng.standard_normal(len(at))
    rise = (problem.log_loss(at + step) - problem.log_loss(at - step)) / 2
    np.testing.assert_allclose(problem.jacobian(at) @ step, rise, rtol=1e-4, atol=1e-10)


def test_the_spread_of_normal_noise_is_its_deviation(rng: np.random.Generator) -> None:
    assert spread(0.03 * rng.standard_normal(20_000), 3) == pytest.approx(0.03, rel=0.05)
