"""`open-mythos demo`: the main job, with a last word on where to look."""

from pathlib import Path

from rich.console import Console

from open_mythos.demo.plan import make_plan
from open_mythos.demo.run import run_demo


def run(*, out: Path, minutes: float, resume: bool, seed: int) -> int:
    """Run the demo; the exit code is 0 only if the report was written."""
    console = Console(stderr=True)
    result = run_demo(out, make_plan(minutes, seed), resume=resume, console=console)
    if result.report is None:
        console.print(f"{result.status}; run it again to go on where it is", highlight=False)
        return 1
    found = result.findings
    console.print(
        f"done in {result.seconds:.0f} s. Trained on <= {found['trained_hops']} hops, solved at "
        f"95 %: {found['solved_hops']}. Text perplexity by loops: {found['text_perplexity']}",
        highlight=False,
        markup=False,
    )
    console.print(f"open {result.report}", highlight=False, markup=False)
    return 0
