"""What a model costs, before it is built; and which implementations run on this machine."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table

from open_mythos.checkpoint.files import read_json
from open_mythos.config.advice import advice
from open_mythos.config.budget import (
    cache_bytes_per_token,
    flops_per_token,
    parameters,
    with_attention,
)
from open_mythos.config.mythos import AttentionType, MythosConfig
from open_mythos.config.overrides import configure, from_plain, read_yaml
from open_mythos.config.presets import PRESETS, preset
from open_mythos.errors import CheckpointError, ConfigError, did_you_mean


if TYPE_CHECKING:
    from open_mythos.ops.available import Choice

ATTENTIONS: tuple[AttentionType, ...] = ("mla", "gqa")
BFLOAT16_BYTES = 2
CONFIG_FILE = "config.json"
LATEST_FILE = "latest"


@dataclass(frozen=True)
class Inspection:
    """The figures of one network at one depth and length.

    Attributes:
        name: What was inspected.
        attn_type: The attention it uses.
        n_loops: Loops that the figures are for.
        context: Sequence length that the figures are for.
        total_parameters: All parameters.
        active_parameters: Those that one token multiplies with, each counted once.
        parameters: Part -> parameters.
        flops_per_token: Forward FLOPs of an average token of the sequence.
        flops: Part -> forward FLOPs per token.
        cache_bytes_per_token: Attention -> bfloat16 bytes; None where the heads do not allow it.
        cache_bytes: The same for the whole sequence.
        warnings: What the config is likely to regret.
    """

    name: str
    attn_type: AttentionType
    n_loops: int
    context: int
    total_parameters: int
    active_parameters: int
    parameters: dict[str, int]
    flops_per_token: float
    flops: dict[str, float]
    cache_bytes_per_token: dict[str, int | None]
    cache_bytes: dict[str, int | None]
    warnings: list[str]


def run(
    *,
    target: str,
    overrides: Sequence[str],
    n_loops: int | None,
    context: int | None,
    as_json: bool,
) -> None:
    """Print the figures of a preset, a YAML file or a checkpoint, as a table or as JSON."""
    name, cfg = resolve(target)
    found = inspect_config(name, configure(cfg, overrides=overrides), n_loops, context)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
    else:
        show(found, Console())


@dataclass(frozen=True)
class Backends:
    """What runs on this machine, for one network's shapes.

    Attributes:
        device: The accelerator if there is one, else the CPU, with its name.
        versions: Package -> version; None where it is not installed.
        choices: Every op with more than one implementation.
    """

    device: str
    versions: dict[str, str | None]
    choices: list["Choice"]


def run_backends(
    *,
    target: str | None,
    overrides: Sequence[str],
    n_loops: int | None,
    context: int | None,
    as_json: bool,
) -> None:
    """Print which implementations run here, after the figures of `target` if there is one."""
    name, cfg = (None, MythosConfig()) if target is None else resolve(target)
    cfg = configure(cfg, overrides=overrides)
    figures = None if name is None else inspect_config(name, cfg, n_loops, context)
    found = inspect_backends(cfg)
    if as_json:
        document = {} if figures is None else asdict(figures)
        print(json.dumps({**document, "backends": asdict(found)}, indent=2))
        return
    console = Console()
    if figures is not None:
        show(figures, console)
    show_backends(found, console)


def resolve(target: str) -> tuple[str, MythosConfig]:
    """The name and config behind what the user typed; no weights are read.

    Raises:
        ConfigError: If it is no preset, no YAML file, no run and no folder with a config.json.
        CheckpointError: If the folder's config.json is damaged or another library's.
    """
    if target in PRESETS:
        return target, preset(target)
    path = Path(target)
    if (path / LATEST_FILE).is_file():  # a run folder names its newest checkpoint
        path = path / (path / LATEST_FILE).read_text(encoding="utf-8").strip()
    if path.is_dir() and (path / CONFIG_FILE).is_file():
        document = read_json(path / CONFIG_FILE)
        values = document.get("config") if isinstance(document, dict) else None
        if not isinstance(values, dict):
            raise CheckpointError(f"{path / CONFIG_FILE} has no 'config' table; another library's?")
        return target, from_plain(MythosConfig, values)
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        values = read_yaml(path)
        inner = values.get("model")  # a run's settings hold the model's under this name
        return target, from_plain(MythosConfig, inner if isinstance(inner, dict) else values)
    raise ConfigError(
        f"{target!r} is no preset, no YAML file and no folder with a {CONFIG_FILE}; "
        f"{did_you_mean(target, PRESETS)}"
    )


def inspect_config(
    name: str, cfg: MythosConfig, n_loops: int | None = None, context: int | None = None
) -> Inspection:
    """Work out every figure from the config alone.

    Raises:
        InputError: If n_loops or context is below 1.
    """
    loops = cfg.max_loop_iters if n_loops is None else n_loops
    length = cfg.max_seq_len if context is None else context
    counted, work = parameters(cfg), flops_per_token(cfg, loops, length)
    cache: dict[str, int | None] = {}
    for kind in ATTENTIONS:
        twin = with_attention(cfg, kind)
        cache[kind] = cache_bytes_per_token(twin, loops, BFLOAT16_BYTES) if twin else None
    return Inspection(
        name=name,
        attn_type=cfg.attn_type,
        n_loops=loops,
        context=length,
        total_parameters=counted.total,
        active_parameters=counted.active,
        parameters=counted.parts(),
        flops_per_token=work.total,
        flops=asdict(work),
        cache_bytes_per_token=cache,
        cache_bytes={kind: size and size * length for kind, size in cache.items()},
        warnings=advice(cfg, loops, length),
    )


def inspect_backends(cfg: MythosConfig) -> Backends:
    """Ask everything that picks an implementation what it would pick here."""
    import torch  # noqa: PLC0415 -- counting a model does without torch

    from open_mythos.bench.machine import processor  # noqa: PLC0415 -- likewise
    from open_mythos.ops.available import choices  # noqa: PLC0415 -- likewise
    from open_mythos.train.build import find_device  # noqa: PLC0415 -- likewise
    from open_mythos.train.environment import version_of  # noqa: PLC0415 -- likewise

    device = find_device("auto")
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else processor()
    versions = {package: version_of(package) for package in ("torch", "triton", "flash-attn")}
    return Backends(
        device=f"{device.type}, {name}",
        versions={**versions, "CUDA": torch.version.cuda},
        choices=choices(cfg, device),
    )


def show_backends(found: Backends, console: Console) -> None:
    """Draw the choices for a person: one line per implementation."""
    versions = ", ".join(f"{name} {version or '-'}" for name, version in found.versions.items())
    table = Table(title=f"{found.device}\n{versions}", title_justify="left")
    dtypes = list(found.choices[0].picked)
    for column in ("", "implementation", *dtypes, "here"):
        side: Literal["center", "left"] = "center" if column in dtypes else "left"
        table.add_column(column, justify=side, overflow="fold")
    for choice in found.choices:
        for at, way in enumerate(choice.ways):
            auto = ["auto" if choice.picked[dtype] == way.name else "" for dtype in dtypes]
            here = "yes" if way.lacks is None else f"no: {way.lacks}"
            table.add_row("" if at else choice.op, way.name, *auto, here)
        table.add_section()
    console.print(table)
    console.print(
        "Kernels for norms, SwiGLU, rotary and the end of a loop serve inference; in training, and "
        "inside torch.compile, the plain ways run. A model with hooks is decoded eagerly.",
        highlight=False,
    )


def show(found: Inspection, console: Console) -> None:
    """Draw the figures for a person."""
    table = Table(
        title=f"{found.name}: {found.n_loops} loops, {found.context:,} tokens", title_justify="left"
    )
    for column in ("", "parameters", "share"):
        table.add_column(column, justify="left" if not column else "right")
    for part, count in found.parameters.items():
        table.add_row(part.replace("_", " "), f"{count:,}", f"{count / found.total_parameters:.1%}")
    table.add_section()
    total, active = found.total_parameters, found.active_parameters
    table.add_row("total", f"{total:,}", "100.0%", style="bold")
    table.add_row("active per token, the loop once", f"{active:,}", f"{active / total:.1%}")
    console.print(table)
    costs = Table()
    for column in ("", "per token", "whole sequence"):
        costs.add_column(column, justify="left" if not column else "right")
    work = found.flops_per_token
    costs.add_row("forward FLOPs", scaled(work, "", 1000), scaled(work * found.context, "", 1000))
    for kind, size in found.cache_bytes_per_token.items():
        used = " (this model)" if kind == found.attn_type else ""
        figures = ("-", "-")
        if size is not None:
            figures = (scaled(size, "B", 1024), scaled(size * found.context, "B", 1024))
        costs.add_row(f"cache, bfloat16, {kind}{used}", *figures)
    console.print(costs)
    for warning in found.warnings:
        console.print(f"[yellow]warning:[/yellow] {warning}", highlight=False, soft_wrap=True)


def scaled(value: float, unit: str, base: int) -> str:
    """A number people can read: 5.49e9 -> `5.49 G`, 11520 B -> `11.2 KiB`."""
    steps = ["", "K", "M", "G", "T", "P", "E", "Z"]
    power = 0
    while value >= base and power < len(steps) - 1:
        value, power = value / base, power + 1
    prefix = f"{steps[power]}{'i' if base == 1024 and power else ''}"
    return f"{value:.3g} {prefix}{unit}".strip()
