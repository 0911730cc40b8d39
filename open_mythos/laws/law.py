"""Laws of looped networks: formulas of the loss, with constants that points can fix."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from open_mythos.errors import InputError, did_you_mean


Array = NDArray[np.float64]
Inputs = Mapping[str, Array]
Constants = Mapping[str, float]


@dataclass(frozen=True)
class Shape:
    """A constant that bends a term, and where it is looked for.

    Attributes:
        name: As the law writes it.
        low: Least value.
        high: Largest value.
        guesses: Values that a fit starts from.
    """

    name: str
    low: float
    high: float
    guesses: tuple[float, ...]


@dataclass(frozen=True)
class Law:
    """A sum of terms, each an amplitude of at least 0 times a function of the inputs.

        loss = sum over k of amplitude_k exp(log_terms(shapes, inputs)[k])

    The first term is the floor, whose function is 1. Because the amplitudes stand in front, the
    best ones follow from the shapes by linear least squares, which is what makes a fit certain.

    Attributes:
        name: For the command line.
        equation: As text.
        source: Where it was published, and where its constants stand.
        inputs: What it is a function of, in the order of the equation: names of a table's columns.
        amplitudes: Names, one for each term.
        shapes: The other constants.
        log_terms: From shapes, in order, and inputs to (terms, points).
        derived: Numbers that follow from the constants and say what they mean.
    """

    name: str
    equation: str
    source: str
    inputs: tuple[str, ...]
    amplitudes: tuple[str, ...]
    shapes: tuple[Shape, ...]
    log_terms: Callable[[Array, Inputs], Array]
    derived: Callable[[Constants], dict[str, float]]

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of all constants: amplitudes, then shapes."""
        return (*self.amplitudes, *(shape.name for shape in self.shapes))

    def predict(self, constants: Constants, inputs: Inputs) -> Array:
        """Loss in nats, one number for each point.

        Raises:
            InputError: If a constant or an input is missing.
        """
        for kind, names, given in (
            ("constant", self.constants, constants),
            ("input", self.inputs, inputs),
        ):
            lacking = [name for name in names if name not in given]
            if lacking:
                raise InputError(f"law {self.name!r} lacks {kind} {', '.join(lacking)}")
        shapes = np.array([constants[shape.name] for shape in self.shapes])
        amplitudes = np.array([constants[name] for name in self.amplitudes])
        loss: Array = amplitudes @ np.exp(self.log_terms(shapes, inputs))
        return loss


def _decay(shapes: Array, inputs: Inputs) -> Array:
    loops = inputs["loops"]
    return np.stack([np.zeros_like(loops), -shapes[0] * loops])


def _powers(shapes: Array, inputs: Inputs) -> Array:
    log_params, log_tokens = np.log(inputs["params"]), np.log(inputs["tokens"])
    return np.stack([np.zeros_like(log_params), -shapes[0] * log_params, -shapes[1] * log_tokens])


def _shared(shapes: Array, inputs: Inputs) -> Array:
    phi, alpha, beta = shapes
    effective = inputs["params_once"] + inputs["loops"] ** phi * inputs["params_looped"]
    log_tokens = np.log(inputs["tokens"])
    return np.stack([np.zeros_like(log_tokens), -alpha * np.log(effective), -beta * log_tokens])


def _half_life(constants: Constants) -> dict[str, float]:
    """Loops that halve what is left above the floor, and nats that all loops past one bring."""
    return {
        "half_life": math.log(2.0) / constants["z"],
        "past_one_loop": constants["Z"] * math.exp(-constants["z"]),
    }


def _allocation(constants: Constants) -> dict[str, float]:
    """Powers of compute C ~ N(mu) D that the best N(mu) and D grow with."""
    a, b = constants["a"], constants["b"]
    return {"N_power": b / (a + b), "D_power": a / (a + b)}


def _worth(constants: Constants) -> dict[str, float]:
    """Blocks of their own parameters that so many loops of one block are worth."""
    return {f"worth_of_{r}": float(r) ** constants["phi"] for r in (2, 4, 8)}


# Loss of one trained network read after T loops. Linf is the floor that more loops approach, and z
# how fast: over runs of unequal depth Parcae finds z in proportion to 1 / (mean loops of training).
TEST_TIME = Law(
    name="test-time",
    equation="L(T) = Linf + Z exp(-z T)",
    source="Parcae (arXiv 2604.12946), section 5.3 and appendix L",
    inputs=("loops",),
    amplitudes=("Linf", "Z"),
    shapes=(Shape("z", 1e-3, 20.0, tuple(np.geomspace(0.01, 6.0, 25).tolist())),),
    log_terms=_decay,
    derived=_half_life,
)

# Loss of a network trained on D tokens at mu loops on average and read after mu loops. N(mu) counts
# parameters as if every loop had its own: those outside the loop, and mu times those inside. It is
# Chinchilla's law (Hoffmann et al. 2022, arXiv 2203.15556) with N unrolled.
TRAINING = Law(
    name="training",
    equation="L(mu, D) = E + A N(mu)^-a + B D^-b",
    source="Parcae (arXiv 2604.12946), appendix K equation 7; constants in table 11",
    inputs=("params", "tokens"),
    amplitudes=("E", "A", "B"),
    shapes=(
        Shape("a", 0.01, 2.5, tuple(np.linspace(0.1, 1.5, 12).tolist())),
        Shape("b", 0.01, 2.5, tuple(np.linspace(0.1, 1.5, 12).tolist())),
    ),
    log_terms=_powers,
    derived=_allocation,
)

# What a loop is worth: a block of N_looped parameters run r times lowers the loss as r^phi such
# blocks with parameters of their own would. phi = 1: a loop is as good as a block; phi = 0: it adds
# nothing. For networks of unequal r; it says most where all have one depth, and so one cost.
ISO_DEPTH = Law(
    name="iso-depth",
    equation="L = E + A (N_once + r^phi N_looped)^-alpha + B D^-beta",
    source="Schwethelm et al. (arXiv 2604.21106), equation 3; constants in table 2",
    inputs=("loops", "params_once", "params_looped", "tokens"),
    amplitudes=("E", "A", "B"),
    shapes=(
        Shape("phi", -3.0, 3.0, (-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5)),
        Shape("alpha", 0.01, 2.5, tuple(np.linspace(0.1, 1.2, 9).tolist())),
        Shape("beta", 0.01, 2.5, tuple(np.linspace(0.1, 1.2, 9).tolist())),
    ),
    log_terms=_shared,
    derived=_worth,
)

LAWS = {law.name: law for law in (TEST_TIME, TRAINING, ISO_DEPTH)}


def law_called(name: str) -> Law:
    """The law of a name.

    Raises:
        InputError: If there is none.
    """
    if name not in LAWS:
        raise InputError(f"no law is called {name!r}; {did_you_mean(name, LAWS)}")
    return LAWS[name]
