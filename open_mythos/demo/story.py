"""The demo's findings in words; every sentence follows from the numbers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from open_mythos.demo.measure import TaskResult, TextResult
from open_mythos.demo.plan import SEED_DESIGN, TASK, Plan
from open_mythos.report.page import Section, render_page


if TYPE_CHECKING:
    from open_mythos.report.figures import Figure, Metrics

TITLE = "open_mythos: one block, looped"
LEAD = (
    "Small recurrent-depth transformers, trained on this machine just now. One block in the middle "
    "of the network runs again and again within a forward pass; these pages show what more loops "
    "buy, and where they buy nothing."
)
UNDRAWN = 'Its pictures need matplotlib: pip install "open-mythos[plots]", and run the demo again.'
OURS, SEED = "last state, A from 0.01", "seed loop (ACT mean, A from 0.37)"
SOLVED = 0.95


def solved_hops(result: TaskResult) -> int:
    """The most hops up to which every asked difficulty is answered at 95 % or more."""
    reached = 0
    for hops, share in result.deeper:
        if share < SOLVED:
            break
        reached = hops
    return reached


def rounded(points: Sequence[tuple[int, float]]) -> dict[int, float]:
    """Points as x -> y, y to four places."""
    return {x: round(y, 4) for x, y in points}


def findings(text: TextResult, tasks: Mapping[str, TaskResult], plan: Plan) -> dict[str, Any]:
    """The demo's numbers in short, for the console and for programs."""
    most = plan.trained_hops
    first, best = text.curve.points[0], text.curve.best
    return {
        "trained_hops": most,
        "solved_hops": {name: solved_hops(result) for name, result in tasks.items()},
        "accuracy": {
            **{name: rounded(result.deeper) for name, result in tasks.items()},
            "task, stopped at the trained loops": rounded(tasks[TASK].stopped),
        },
        "text_perplexity": {p.n_loops: round(p.perplexity, 3) for p in text.curve.points},
        "text_best_loops": best.n_loops,
        "text_gain": round(1.0 - best.perplexity / first.perplexity, 4),
    }


def report(
    text: TextResult,
    tasks: Mapping[str, TaskResult],
    runs: "Mapping[str, Metrics]",
    plan: Plan,
    drawn: "Mapping[str, Figure]",
) -> str:
    """The page; without the pictures where there are none."""
    return render_page(
        TITLE,
        LEAD if drawn else f"{LEAD} {UNDRAWN}",
        [
            _task_section(tasks, plan, drawn),
            _seed_section(tasks, plan, drawn),
            _text_section(text, plan, drawn),
            _dynamics_section(runs, drawn),
        ],
    )


def _shown(drawn: "Mapping[str, Figure]", *wanted: tuple[str, str]) -> "list[tuple[str, Figure]]":
    """Captions and pictures, from captions and names; none where nothing was drawn."""
    return [(caption, drawn[name]) for caption, name in wanted] if drawn else []


def _task_section(
    tasks: Mapping[str, TaskResult], plan: Plan, drawn: "Mapping[str, Figure]"
) -> Section:
    data = plan.recipes[TASK].data
    ours, seed = tasks[TASK], tasks[SEED_DESIGN]
    rows = [["hops = loops", OURS, "stopped at the trained loops", SEED]]
    rows += [
        [str(k), f"{a:.3f}", f"{s:.3f}", f"{b:.3f}"]
        for (k, a), (_, s), (_, b) in zip(ours.deeper, ours.stopped, seed.deeper, strict=True)
    ]
    reached = solved_hops(ours)
    verdict = (
        f"Trained on at most {data.max_hops} hops, this model answers up to {reached} hops at "
        f"{SOLVED:.0%} or better by looping more, with no new parameter."
        if reached > data.max_hops
        else f"In this run the model did not get past its trained {data.max_hops} hops at "
        f"{SOLVED:.0%}: it needs more steps than this machine had time for."
    )
    return Section(
        "A task whose difficulty is depth",
        [
            f"Each row shows a fresh random cycle through {data.states} states, entry by entry in "
            "random order, then asks where walks of k steps end. One step is one lookup, and one "
            "loop can do one lookup, so k hops need k loops. Guessing is right "
            f"{ours.chance:.1%} of the time.",
            verdict,
            f"With no more than the trained loops it stays at {ours.stopped[-1][1]:.1%} on "
            f"{ours.stopped[-1][0]} hops: the gain is the loops'. The loop takes n steps in n "
            "loops and does not stop by itself, so other numbers of loops answer another question, "
            "as the heat map shows (states repeat after "
            f"{data.states} steps; 64 hops end where {64 % data.states} do, yet take 64 loops).",
        ],
        _shown(
            drawn,
            ("Accuracy against hops, with as many loops as hops", "task-depth"),
            ("Accuracy by hops and loops: right where they match", "task-heat"),
            ("Accuracy while training", "task-accuracy"),
            ("The curriculum: the hardest hops in training so far", "task-level"),
        ),
        rows,
    )


def _seed_section(
    tasks: Mapping[str, TaskResult], plan: Plan, drawn: "Mapping[str, Figure]"
) -> Section:
    ours, seed = tasks[TASK], tasks[SEED_DESIGN]
    most, (deepest, share) = plan.trained_hops, seed.deeper[-1]
    texts = [
        "The public seed design reads a halting-weighted mean of all loop states, carries 37 % of "
        "the state over linearly, tells the block its loop number, and corrects each loop's output "
        "by an adapter. Here it is trained on the same data for the same steps, from the same "
        f"starting scale. It answers up to {solved_hops(seed)} hops at {SOLVED:.0%}, against "
        f"{solved_hops(ours)}; at {deepest} hops {share:.1%}, against {ours.deeper[-1][1]:.1%}.",
    ]
    pictures = [("Accuracy by hops and loops, seed loop", "task-heat-seed-design")]
    if seed.halting is not None:
        texts.append(
            f"The second picture shows one sequence at {most} loops: the map's entries on top, the "
            f"queries below. {seed.halting.halted_queries:.0%} of the queries had halted before "
            "the last loop. A position that halts early mixes its early states into the answer; "
            "one that never halts is read at its last state, whatever the readout is called."
        )
        pictures.append(("Halting probability spent, by position", "task-halting"))
    return Section("The same task, the seed loop", texts, _shown(drawn, *pictures))


def _text_section(text: TextResult, plan: Plan, drawn: "Mapping[str, Figure]") -> Section:
    first, best = text.curve.points[0], text.curve.best
    last = text.curve.points[-1]
    gain = 1.0 - best.perplexity / first.perplexity
    return Section(
        "Real text",
        [
            "A model of the bundled plays, trained at "
            f"{plan.recipes['text'].depth.min} to {plan.recipes['text'].depth.max} loops a step. "
            f"Held-out perplexity is {first.perplexity:.2f} at one loop, "
            f"{best.perplexity:.2f} at {best.n_loops} ({gain:.1%} lower), and "
            f"{last.perplexity:.2f} at {last.n_loops}.",
            "What loops buy on text of this size is little, and more of them change little; do "
            "not expect the task's gain here.",
        ],
        _shown(
            drawn,
            ("Held-out perplexity against loops", "text-loops"),
            ("Training loss", "text-loss"),
            ("Expert use by loop", "text-experts"),
        ),
        samples=[(f"{n} loops", sample) for n, sample in text.samples],
    )


def _dynamics_section(runs: "Mapping[str, Metrics]", drawn: "Mapping[str, Figure]") -> Section:
    skipped = sum(bool(m.get("skipped")) for metrics in runs.values() for m in metrics)
    return Section(
        "Inside the loop",
        [
            "rho(A) is the largest factor by which the linear part of the update carries the "
            "state over. It cannot reach 1, whatever the optimizer does; that alone does not make "
            "the whole loop stable.",
            f"Steps passed over because a loss or gradient was not finite: {skipped}.",
        ],
        _shown(drawn, ("rho(A) while training", "rho")),
    )
