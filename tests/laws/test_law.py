import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from open_mythos.errors import InputError
from open_mythos.laws.law import ISO_DEPTH, LAWS, TEST_TIME, TRAINING, law_called


def drawn(rng: np.random.Generator, names: tuple[str, ...], low: float, high: float) -> dict:
    return {name: rng.uniform(low, high) for name in names}


def test_test_time_is_its_equation(rng: np.random.Generator) -> None:
    c = drawn(rng, TEST_TIME.constants, 0.2, 3.0)
    loops = rng.integers(1, 30, size=7).astype(float)
    for found, t in zip(TEST_TIME.predict(c, {"loops": loops}), loops, strict=True):
        assert found == pytest.approx(c["Linf"] + c["Z"] * math.exp(-c["z"] * t))


def test_training_is_its_equation(rng: np.random.Generator) -> None:
    c = drawn(rng, TRAINING.constants, 0.1, 0.9)
    inputs = {"params": rng.uniform(1e6, 1e9, size=7), "tokens": rng.uniform(1e8, 1e11, size=7)}
    for found, n, d in zip(TRAINING.predict(c, inputs), *inputs.values(), strict=True):
        assert found == pytest.approx(c["E"] + c["A"] * n ** -c["a"] + c["B"] * d ** -c["b"])


def test_iso_depth_is_its_equation(rng: np.random.Generator) -> None:
    c = drawn(rng, ISO_DEPTH.constants, 0.1, 0.9)
    inputs = {
        "loops": rng.integers(1, 9, size=7).astype(float),
        "params_once": rng.uniform(1e6, 1e9, size=7),
        "params_looped": rng.uniform(1e6, 1e9, size=7),
        "tokens": rng.uniform(1e8, 1e11, size=7),
    }
    for found, r, once, looped, d in zip(
        ISO_DEPTH.predict(c, inputs), *inputs.values(), strict=True
    ):
        effective = once + r ** c["phi"] * looped
        want = c["E"] + c["A"] * effective ** -c["alpha"] + c["B"] * d ** -c["beta"]
        assert found == pytest.approx(want)


def test_phi_of_one_is_unrolling_and_phi_of_nothing_is_no_loop(rng: np.random.Generator) -> None:
    c = {"E": 1.5, "A": 30.0, "B": 500.0, "phi": 1.0, "alpha": 0.2, "beta": 0.35}
    once, looped, tokens = (rng.uniform(1e6, 1e9, size=5) for _ in range(3))
    loops = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    inputs = {"loops": loops, "params_once": once, "params_looped": looped, "tokens": tokens}
    as_training = {"E": 1.5, "A": 30.0, "B": 500.0, "a": 0.2, "b": 0.35}
    unrolled = TRAINING.predict(as_training, {"params": once + loops * looped, "tokens": tokens})
    np.testing.assert_allclose(ISO_DEPTH.predict(c, inputs), unrolled)
    still = ISO_DEPTH.predict(c | {"phi": 0.0}, inputs)
    np.testing.assert_allclose(
        still, ISO_DEPTH.predict(c | {"phi": 0.0}, inputs | {"loops": 1.0 + 0 * loops})
    )


def test_half_life_halves_what_is_left() -> None:
    c = {"Linf": 2.7, "Z": 1.5, "z": 0.4}
    found = TEST_TIME.derived(c)
    loops = 3.0 + np.array([0.0, found["half_life"], 2 * found["half_life"]])
    rest = TEST_TIME.predict(c, {"loops": loops}) - c["Linf"]
    np.testing.assert_allclose(rest / rest[0], [1.0, 0.5, 0.25])
    one, floor = TEST_TIME.predict(c, {"loops": np.array([1.0, 1e3])})
    assert found["past_one_loop"] == pytest.approx(one - floor)


def test_allocation_is_where_the_law_is_least_at_fixed_compute() -> None:
    c = {"E": 2.0, "A": 4e5, "B": 2e4, "a": 0.7, "b": 0.5}

    def best(compute: float) -> float:
        def loss(log_params: float) -> float:
            params = np.array([math.exp(log_params)])
            return float(TRAINING.predict(c, {"params": params, "tokens": compute / params})[0])

        return float(minimize_scalar(loss, bounds=(12.0, 30.0), method="bounded").x)

    slope = (best(1e21) - best(1e18)) / math.log(1e3)
    found = TRAINING.derived(c)
    assert found["N_power"] == pytest.approx(slope, abs=1e-3)
    assert found["N_power"] + found["D_power"] == pytest.approx(1.0)


def test_worth_counts_blocks() -> None:
    found = ISO_DEPTH.derived({"phi": 0.5})
    assert found == {"worth_of_2": 2**0.5, "worth_of_4": 2.0, "worth_of_8": pytest.approx(8**0.5)}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_what_is_missing_is_named(law) -> None:  # type: ignore[no-untyped-def]
    inputs = {name: np.ones(2) for name in law.inputs}
    with pytest.raises(InputError, match="lacks constant"):
        law.predict({}, inputs)
    with pytest.raises(InputError, match=f"lacks input .*{law.inputs[-1]}"):
        law.predict(dict.fromkeys(law.constants, 1.0), {})


def test_a_law_is_found_by_its_name() -> None:
    assert all(law_called(name) is law for name, law in LAWS.items())
    with pytest.raises(InputError, match="did you mean 'iso-depth'"):
        law_called("isodepth")


def test_fitting_needs_no_torch_and_says_so_where_scipy_is_missing() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import open_mythos.laws.intervals, open_mythos.laws.runs\n"
        "for name in [n for n in sys.modules if n.startswith(('scipy', 'open_mythos'))]:\n"
        "    del sys.modules[name]\n"
        "sys.modules['scipy.optimize'] = None\n"
        "try:\n"
        "    import open_mythos.laws.fit\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "open-mythos[laws]" in done.stdout
