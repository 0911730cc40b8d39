"""`open-mythos depth-suite`: tasks x designs x seeds, with a last word on where to look."""

from pathlib import Path

from rich.console import Console

from open_mythos.suite.plan import Plan
from open_mythos.suite.run import run_suite


def run(plan: Plan, *, out: Path, jobs: int, resume: bool) -> int:
    """Run the suite; the exit code is 0 only if every cell has its result."""
    console = Console(stderr=True)
    result = run_suite(out, plan, jobs=jobs, resume=resume, console=console)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    for name, why in result.failed.items():
        say(f"{name} has no result: {why}")
    if result.status == "stopped":
        say("stopped; run it again to go on where it is")
        return 1
    for sentences in result.findings.get("sentences", {}).values():
        for text in sentences:
            say(text)
    say(f"done in {result.seconds:.0f} s")
    if result.report is not None:
        say(f"open {result.report}")
    return 0 if result.status == "finished" else 1


def names(text: str) -> list[str]:
    """`a,b` -> [a, b]; nothing for an empty text."""
    return [part.strip() for part in text.split(",") if part.strip()]
