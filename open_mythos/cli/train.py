"""`open-mythos train`: a named recipe, with settings of the user's own, to a run folder."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from open_mythos.config.overrides import configure, to_yaml
from open_mythos.eval.evaluators import standard_evaluators
from open_mythos.train.checkpoints import Start
from open_mythos.train.console import ConsoleSink
from open_mythos.train.presets import recipe as named_recipe
from open_mythos.train.sources import build_sources
from open_mythos.train.starting import starting_recipe
from open_mythos.train.trainer import Parts, train


def run(
    *,
    name: str,
    overrides: Sequence[str],
    out: Path,
    start: Start,
    config: Path | None,
    print_config: bool,
) -> int:
    """Train, and say how it ended; the exit code is 0 only for a run that took its last step."""
    base = starting_recipe(named_recipe(name), config, overrides)
    chosen = configure(base, config, overrides)
    if print_config:
        print(to_yaml(chosen), end="")
        return 0
    sources = build_sources(chosen)
    result = train(
        chosen,
        out,
        resume=start,
        evaluators=standard_evaluators(chosen, sources),
        sinks=[ConsoleSink()],
        parts=Parts(sources=lambda _: sources),
    )
    Console(stderr=True).print(result.message, highlight=False, markup=False)
    return 0 if result.status == "finished" else 1
