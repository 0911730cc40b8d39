"""`open-mythos doctor --env`: what is installed here, what runs, and what is missing."""

import importlib.metadata
import platform
import re
import sys
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from open_mythos import __version__
from open_mythos.checkpoint.files import write_json


if TYPE_CHECKING:
    from open_mythos.cli.inspect import Backends

PACKAGE = "open-mythos"
# "name[parts]>=1,<2; marker and extra == 'x'", as a wheel's metadata says it.
LINE = re.compile(r"^([\w.-]+)(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?\s*(?:;\s*(.*))?$")
EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")
SYSTEM = re.compile(r"platform_system\s*==\s*['\"](\w+)['\"]")


@dataclass(frozen=True)
class Requirement:
    """One package that is asked for.

    Attributes:
        name: Of the package.
        wanted: Versions that will do, "" for any.
        found: The installed version, None if there is none.
    """

    name: str
    wanted: str
    found: str | None

    @property
    def met(self) -> bool:
        """Whether it is installed in a version that will do."""
        return self.found is not None and satisfies(self.found, self.wanted)

    def __str__(self) -> str:
        here = self.found or "-"
        return f"{self.name} {here}" if self.met else f"{self.name}{self.wanted} ({here})"


@dataclass(frozen=True)
class Installation:
    """What was found.

    Attributes:
        version: Of this package.
        python: Of the interpreter.
        system: Of the machine.
        core: What the package cannot do without; None where it is not installed but run from a
            checkout, so that nothing says what it asks for.
        extras: Extra -> what it would bring.
        backends: Which implementations run; None without torch.
    """

    version: str
    python: str
    system: str
    core: list[Requirement] | None
    extras: dict[str, list[Requirement]]
    backends: "Backends | None"

    @property
    def whole(self) -> bool:
        """Whether nothing is missing that the package needs."""
        return all(requirement.met for requirement in self.core or [])


def run(json_file: Path | None = None) -> int:
    """Print what is installed and what is not; 1 if a package is missing that is needed."""
    found = look()
    show(found, Console())
    if json_file is not None:
        write_json(json_file, {**asdict(found), "whole": found.whole})
    return 0 if found.whole else 1


def look() -> Installation:
    """What is installed, by its own metadata."""
    try:
        lines = importlib.metadata.requires(PACKAGE) or []
        core, extras = sorted_out(lines)
    except importlib.metadata.PackageNotFoundError:
        core, extras = None, {}
    return Installation(
        version=__version__,
        python=sys.version.split()[0],
        system=platform.platform(),
        core=core,
        extras=extras,
        backends=None if installed("torch") is None else _backends(),
    )


def sorted_out(lines: list[str]) -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """Requirements of the package itself, and of each extra, from the lines of its metadata.

    Those for another operating system are left out.
    """
    core: list[Requirement] = []
    extras: dict[str, list[Requirement]] = {}
    for line in lines:
        matched = LINE.match(line.strip())
        assert matched is not None, line
        name, wanted, marker = matched.group(1), matched.group(2).strip(), matched.group(3) or ""
        system = SYSTEM.search(marker)
        if system is not None and system.group(1) != platform.system():
            continue
        extra = EXTRA.search(marker)
        home = core if extra is None else extras.setdefault(extra.group(1), [])
        home.append(Requirement(name, wanted, installed(name)))
    return core, extras


def installed(package: str) -> str | None:
    """Version of an installed package; None where it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def satisfies(version: str, wanted: str) -> bool:
    """Whether a version is among those wanted: bounds on release numbers.

    Local parts ("+cpu") and pre-release marks are not looked at.
    """
    here = _numbers(version)
    for operator, bound in re.findall(r"([<>=]+)\s*([\w.]+)", wanted):
        pairs = list(zip_longest(here, _numbers(bound), fillvalue=0))
        ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
        holds = {
            ">=": ours >= theirs,
            "<=": ours <= theirs,
            "==": ours == theirs,
            "<": ours < theirs,
            ">": ours > theirs,
        }
        if not holds[operator]:
            return False
    return True


def _numbers(version: str) -> list[int]:
    release = re.match(r"\s*(\d+(?:\.\d+)*)", version)
    return [int(part) for part in release.group(1).split(".")] if release else []


def _backends() -> "Backends":
    from open_mythos.cli.inspect import inspect_backends  # noqa: PLC0415 -- it imports torch
    from open_mythos.config.mythos import MythosConfig  # noqa: PLC0415 -- likewise

    return inspect_backends(MythosConfig())


def show(found: Installation, console: Console) -> None:
    """Draw it for a person."""
    table = Table(
        title=f"open-mythos {found.version}, Python {found.python}\n{found.system}",
        title_justify="left",
    )
    for column in ("", "here", "missing", "to install it"):
        table.add_column(column, overflow="fold")
    for name, wanted in {"needed": found.core or [], **found.extras}.items():
        here = ", ".join(str(requirement) for requirement in wanted if requirement.met)
        missing = ", ".join(str(requirement) for requirement in wanted if not requirement.met)
        target = PACKAGE if name == "needed" else f"{PACKAGE}\\[{name}]"
        table.add_row(name, here, missing, f'pip install "{target}"' if missing else "")
    if found.core is not None:
        console.print(table)
    else:
        console.print(
            f"open-mythos {found.version} runs from a checkout and is not installed: pip install "
            "-e . in it, and this lists what is missing",
            highlight=False,
        )
    if found.backends is not None:
        from open_mythos.cli.inspect import show_backends  # noqa: PLC0415 -- needs torch's answers

        show_backends(found.backends, console)
    if not found.whole:
        console.print("[red]something that is needed is missing[/red]", highlight=False)
