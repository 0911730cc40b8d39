"""How often the intervals of a fitted law hold the constants that its points were made with.

    python benchmarks/laws.py --out benchmarks/results/laws.json

For each case, losses of a law with published constants on inputs like those of the paper, times
normal noise; a fit; its 95 % intervals; and whether each holds its constant. Over --draws of the
noise the shares are to come near 95 %. The first draw's constants and intervals stand beside them,
and the share of the points at which the band holds the law itself. Minutes on one core.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from open_mythos.laws.fit import fit
from open_mythos.laws.intervals import bootstrap
from open_mythos.laws.law import ISO_DEPTH, TEST_TIME, TRAINING, Constants, Inputs, Law
from open_mythos.laws.points import Points
from open_mythos.laws.published import PARCAE, SCHWETHELM


# Parcae, appendix O, tables 18 and 19: parameters, those looped, and budgets in 1e18 FLOPs.
RUNS = {
    "140M": (144_323_136.0, 2 * 12 * 768.0**2, (1, 2, 4, 8, 16, 64)),
    "370M": (388_003_328.0, 4 * 12 * 1024.0**2, (32, 64, 128)),
}
# Schwethelm et al., table 6: width over 64 -> billions of tokens.
GRID = {
    6: (0.98, 2.10),
    8: (0.64, 1.36, 2.95),
    10: (0.45, 0.97, 2.08, 4.49),
    12: (0.34, 0.72, 1.55, 3.34, 7.13),
    14: (0.56, 1.20, 2.59),
    16: (0.96, 2.07, 4.43),
    18: (1.70, 3.62, 7.78),
    20: (1.42, 3.05),
    24: (2.20, 4.71),
    28: (3.58,),
    34: (2.52,),
}
CURVE = {"Linf": 2.7, "Z": 1.2, "z": 0.35}


def parcae(name: str) -> Inputs:
    total, block, budgets = RUNS[name]
    rows = []
    for budget in budgets:
        for mean in (2, 4, 6, 8, 10, 12):
            late = -(-mean // 2)  # the loops that are differentiated
            cost = 2 * (mean - late) * block + 6 * (total + (late - 1) * block)
            rows.append((total + (mean - 1) * block, 1e18 * budget / cost))
    return dict(zip(("params", "tokens"), np.array(rows).T, strict=True))


def schwethelm() -> Inputs:
    rows = [
        (r, 48 * w**2, 192 / r * w**2 + (2 * w**2 if r > 1 else 0), 1e9 * d)
        for r in (1, 2, 4, 8)
        for w, tokens in ((64.0 * s, row) for s, row in GRID.items())
        for d in tokens
    ]
    names = ("loops", "params_once", "params_looped", "tokens")
    return dict(zip(names, np.array(rows, dtype=float).T, strict=True))


def cases() -> Iterator[tuple[str, Law, Constants, Inputs, float]]:
    for noise in (0.01, 0.001):
        for name, constants in PARCAE.items():
            yield f"training, Parcae {name}", TRAINING, constants, parcae(name), noise
    for noise in (0.01, 0.004):
        yield "iso-depth, 116 runs", ISO_DEPTH, SCHWETHELM, schwethelm(), noise
    for loops, noise in ((np.arange(1.0, 25.0), 0.01), (2.0 ** np.arange(6), 0.002)):
        yield f"test-time, {len(loops)} depths", TEST_TIME, CURVE, {"loops": loops}, noise


def measure(case: Any, draws: int, resamples: int) -> dict[str, Any]:
    name, law, constants, inputs, noise = case
    true = law.predict(constants, inputs)
    held, band, first = dict.fromkeys(law.constants, 0), 0.0, {}
    began = time.process_time()
    for draw in range(draws):
        drawn = noise * np.random.default_rng((17, draw)).standard_normal(len(true))
        fitted = fit(law, Points(name, true * np.exp(drawn), inputs))
        found = bootstrap(fitted, resamples)
        low, high = found.band(inputs)
        band += float(np.mean((low <= true) & (true <= high)))
        for constant, interval in found.intervals().items():
            held[constant] += constants[constant] in interval
            if draw == 0:
                first[constant] = [fitted.constants[constant], interval.low, interval.high]
    return {
        "case": name,
        "noise": noise,
        "points": len(true),
        "constants": dict(constants),
        "held": {constant: count / draws for constant, count in held.items()},
        "band_held": band / draws,
        "first_draw": first,
        "seconds_a_draw": (time.process_time() - began) / draws,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=80)
    parser.add_argument("--resamples", type=int, default=100)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = []
    for case in cases():
        found.append(measure(case, args.draws, args.resamples))
        print(json.dumps(found[-1]), flush=True)
        if args.out:
            words = f"benchmarks/laws.py --draws {args.draws} --resamples {args.resamples}"
            record = {"command": words, "cases": found}
            args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
