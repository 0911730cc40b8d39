"""The suite's findings in words and pictures; every sentence follows from the numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from open_mythos.report.depth_maps import Band, Panel, band_figure, map_grid, matrix_figure
from open_mythos.report.figures import Figure
from open_mythos.report.page import Section, render_page
from open_mythos.suite.beyond import FACTORS, ON
from open_mythos.suite.plan import FIXED_DEPTH, Plan
from open_mythos.suite.problems import Problem
from open_mythos.suite.summary import Spread, Summary
from open_mythos.suite.verdict import MEANINGS, SOLVED


TITLE = "open_mythos: the depth suite"


def lead(plan: Plan) -> str:
    """What the page is about."""
    seeds = len({cell.seed for cell in plan.cells})
    return (
        f"{len(plan.problems)} tasks, {len(plan.designs)} designs of the loop, "
        f"{seeds} {'seeds' if seeds > 1 else 'seed'}: every design is trained by the same recipe "
        "on problems up to some difficulty, then asked harder ones with more loops, on rows that "
        "no training saw."
    )


def sentence(found: Summary, unit: str) -> str:
    """What became of one design on one task."""
    trained, seeds = found.trained, len(found.verdicts)
    kinds = [
        kind if count == seeds else f"{kind} in {count} of {seeds} seeds"
        for kind, count in found.kinds.items()
    ]
    least, most = found.reach
    reach = f"{most} {unit}" if least == most else f"{least} to {most} {unit} by seed"
    solved = f"solves up to {reach} at {SOLVED:.0%}" if most else f"solves nothing at {SOLVED:.0%}"
    hardest, n = max(found.own), found.map.loops[-1]
    at_most = f", with {n} loops at {found.at[n]}"
    loops = "as many loops as that" if trained.per_level else f"{n} loops"
    return (
        f"{found.design}: {', '.join(kinds)}. Trained on at most {trained.difficulty} {unit} and "
        f"{trained.loops} loops, it answers these at "
        f"{Spread.of([v.trained for v in found.verdicts.values()])}"
        f"{'' if trained.per_level else at_most}, {solved}, and answers {hardest} {unit} with "
        f"{loops} at {found.own[hardest]}; chance is {trained.chance[hardest]:.3f}."
        f"{farther(found)}"
    )


def farther(found: Summary) -> str:
    """Accuracy over chance at multiples of the trained difficulty; what looping on costs."""
    shares = [f"{spread} at {f} times" for f, spread in found.over_chance.items()]
    told = (
        f" Of what there is to gain over chance it has {' and '.join(shares)} the trained "
        "difficulty."
        if shares
        else ""
    )
    if found.lost is not None:
        told += (
            f" By {ON} times the loops that a problem needs it loses {100 * found.lost:.1f} points "
            "at most."
        )
    return told


def figures(plan: Plan, summaries: Sequence[Summary]) -> dict[str, Figure]:
    """Every picture of the report, by name."""
    drawn: dict[str, Figure] = {}
    for name, problem in plan.problems.items():
        shown = of(summaries, name)
        if not shown:
            continue
        first = shown[0].trained
        unit, chance = problem.task.unit, first.chance[first.difficulty]
        panels = [
            Panel(
                title=found.design,
                found=found.map,
                difficulty=found.trained.difficulty,
                loops=found.trained.loops,
                per_level=found.trained.per_level,
            )
            for found in shown
        ]
        drawn[f"{name}-maps"] = map_grid(panels, unit, chance)
        own = {found.design: band(found.own) for found in shown}
        label = f"{unit} = loops" if first.per_level else f"{unit}, with {problem.loops[-1]} loops"
        labels = label, "accuracy"
        columns = list(shown[0].own)
        drawn[f"{name}-designs"] = matrix_figure(own, columns, labels, first.difficulty)
        if first.per_level:
            lines = own
        else:
            lines = {found.design: band(found.at) for found in shown}
            labels = "loops", f"accuracy at {first.difficulty} {unit}"
        drawn[f"{name}-curves"] = band_figure(
            lines,
            first.difficulty if first.per_level else max(s.trained.loops for s in shown),
            labels,
            {"chance": chance, **problem.levels},
            doubling=not problem.levels,
        )
    return drawn


def band(points: Mapping[int, Spread]) -> Band:
    """Spreads as the pictures take them."""
    return {x: (spread.mean, spread.least, spread.most) for x, spread in points.items()}


def of(summaries: Sequence[Summary], problem: str) -> list[Summary]:
    """Those of one task."""
    return [found for found in summaries if found.problem == problem]


def findings(plan: Plan, summaries: Sequence[Summary]) -> dict[str, Any]:
    """The suite's numbers in short, for the console and for programs."""
    return {
        "summaries": [found.to_json() for found in summaries],
        "sentences": {
            name: [sentence(found, problem.task.unit) for found in of(summaries, name)]
            for name, problem in plan.problems.items()
        },
    }


def report(
    plan: Plan,
    summaries: Sequence[Summary],
    drawn: Mapping[str, Figure],
    failed: Mapping[str, str],
) -> str:
    """The page.

    Args:
        plan: The suite.
        summaries: What was found.
        drawn: The pictures.
        failed: Name of a cell that has no result -> why.
    """
    tasks = [
        _task(problem, of(summaries, name), drawn)
        for name, problem in plan.problems.items()
        if of(summaries, name)
    ]
    return render_page(
        TITLE,
        lead(plan),
        [_verdicts(plan, summaries), _beyond(plan, summaries), *tasks, _method(plan, failed)],
    )


def verdict_table(plan: Plan, summaries: Sequence[Summary]) -> list[list[str]]:
    """Designs x tasks: the verdicts, and how far each design solves the task."""
    known = {(found.design, found.problem): found for found in summaries}
    designs = list(dict.fromkeys(found.design for found in summaries))
    rows = [["design", *(f"{n} ({p.task.max_level})" for n, p in plan.problems.items())]]
    for design in designs:
        cells = [known.get((design, name)) for name in plan.problems]
        rows.append([design, *("" if found is None else in_short(found) for found in cells)])
    return rows


def in_short(found: Summary) -> str:
    """A verdict and a reach: `gains, 16` or `V 2, plateau 1; 4 to 8`."""
    kinds = found.kinds
    words = [k if len(kinds) == 1 else f"{k} {n}" for k, n in kinds.items()]
    least, most = found.reach
    return f"{', '.join(words)}; {least if least == most else f'{least} to {most}'}"


def _verdicts(plan: Plan, summaries: Sequence[Summary]) -> Section:
    return Section(
        "Verdicts",
        [
            "By task, the verdict and the hardest difficulty up to which all that were asked are "
            f"answered at {SOLVED:.0%}; in the head's brackets the hardest in training.",
            "; ".join(f"{kind}: {meaning}" for kind, meaning in MEANINGS.items()) + ".",
        ],
        table=verdict_table(plan, summaries),
    )


def beyond_table(plan: Plan, summaries: Sequence[Summary]) -> list[list[str]]:
    """Tasks and designs x times the trained difficulty: accuracy over chance; and what is lost."""
    heads = [f"{factor} x" for factor in FACTORS]
    rows = [["task", "design", "seeds", *heads, f"lost by {ON} x the loops, points"]]
    for name in plan.problems:
        for found in of(summaries, name):
            shares = [str(found.over_chance.get(factor, "")) for factor in FACTORS]
            lost = "" if found.lost is None else f"{100 * found.lost:.1f}"
            rows.append([name, found.design, str(len(found.verdicts)), *shares, lost])
    return rows


def _beyond(plan: Plan, summaries: Sequence[Summary]) -> Section:
    return Section(
        "Beyond the training",
        [
            "Accuracy at so many times the hardest trained difficulty, as a share of what there is "
            "to gain over chance, by more loops alone: mean of seeds, least and most. Last, what "
            f"the worst seed loses from the loops that a problem needs to {ON} times as many, "
            "where the row says its difficulty.",
        ],
        table=beyond_table(plan, summaries),
    )


def _task(problem: Problem, shown: Sequence[Summary], drawn: Mapping[str, Figure]) -> Section:
    name, unit = problem.name, problem.task.unit
    tied = shown[0].trained.per_level
    how = (
        "The row does not say its difficulty, the number of loops does: right answers lie where "
        "they match (dotted)."
        if tied
        else "The row says its difficulty, loops are free."
    )
    return Section(
        problem.title,
        [*problem.notes, how, *(sentence(found, unit) for found in shown)],
        [
            (
                f"Accuracy by {unit} and loops, mean of seeds; framed: what training covered",
                drawn[f"{name}-maps"],
            ),
            (
                f"Designs by {unit}, mean of seeds, least and most below; the line ends training",
                drawn[f"{name}-designs"],
            ),
            (
                f"Accuracy against {f'{unit}, with loops to match' if tied else 'loops'}; "
                "bands from the least to the most over seeds",
                drawn[f"{name}-curves"],
            ),
        ],
    )


def _method(plan: Plan, failed: Mapping[str, str]) -> Section:
    texts = [
        "Designs share sizes, data, steps, learning rate and curriculum; what differs is the loop. "
        f"{', '.join(FIXED_DEPTH)} was published with one number of loops in training and has it "
        "here, where the row says its difficulty; for the others it is drawn for each step.",
        "The design untied is no loop: as many different blocks as the loop runs on average at the "
        "hardest trained difficulty, of the same widths, in one pass, so that a row costs the same "
        "FLOPs; everything else is the recipe's.",
        "Held-out rows are the same for every design and seed. The whole of it: suite.json.",
    ]
    texts += [f"{name} has no result: {why}" for name, why in failed.items()]
    steps = [["task", "steps", "rows a step", "width", "loops in training"]]
    for name in plan.problems:
        cells = plan.of(name)
        recipe = cells[0].recipe
        steps.append(
            [
                name,
                str(recipe.steps),
                str(recipe.data.batch_size),
                str(recipe.model.dim),
                f"up to {cells[0].trained.loops}",
            ]
        )
    return Section("How it was done", texts, table=steps)
