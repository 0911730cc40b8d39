"""The `open-mythos` command: a table of subcommands, each importing its work when it runs."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from open_mythos import __version__
from open_mythos.cli.chat_command import chat
from open_mythos.cli.data import app as data
from open_mythos.cli.doctor_command import doctor
from open_mythos.cli.eval_command import evaluate
from open_mythos.cli.exit_commands import calibrate
from open_mythos.cli.generate_command import generate
from open_mythos.cli.hub_commands import export
from open_mythos.cli.law_commands import laws
from open_mythos.cli.options import AsJson, Checkpoint, Device, Loops, OneTask, Overrides
from open_mythos.cli.retrofit_command import retrofit
from open_mythos.cli.serve_command import serve
from open_mythos.cli.suite_command import depth_suite
from open_mythos.cli.tokenizer_commands import tokenizer
from open_mythos.errors import MythosError


USER_ERROR = 2


class Commands(TyperGroup):
    """The command group; a mistake of the user's is one line and exit code 2, no traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except MythosError as error:
            typer.echo(f"open-mythos: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(USER_ERROR) from None


app = typer.Typer(
    cls=Commands,
    name="open-mythos",
    help="Train, sample and measure recurrent-depth transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(calibrate)
app.command()(chat)
app.command("eval")(evaluate)
app.command()(export)
app.command()(laws)
app.command()(retrofit)
app.add_typer(data, name="data")
app.add_typer(tokenizer, name="tokenizer")
app.command("doctor")(doctor)
app.command("generate")(generate)
app.command("depth-suite")(depth_suite)
app.command("serve")(serve)

Resume = Literal["auto", "only"]
# What `--resume` says, in the trainer's own words.
STARTS: dict[Resume | None, Literal["new", "auto", "resume"]] = {
    None: "new",
    "auto": "auto",
    "only": "resume",
}


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"open-mythos {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Options that stand before the subcommand."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path("runs/demo"),
    minutes: Annotated[float, typer.Option(min=0.1, help="Time to spend, roughly.")] = 5.0,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Continue what is in OUT, or start over.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
) -> None:
    """Train on text and on a task that needs depth, sweep the loops, write a report."""
    from open_mythos.cli.demo import run

    raise typer.Exit(run(out=out, minutes=minutes, resume=resume, seed=seed))


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="A named run.", show_default=False)],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; default: runs/NAME.", show_default=False)
    ] = None,
    resume: Annotated[
        Resume | None,
        typer.Option(
            help="auto: go on with the run in OUT, or begin one; only: OUT must hold one. "
            "Without it: OUT must hold none.",
            show_default=False,
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete the run in OUT and begin anew.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings, laid under KEY=VALUE.")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the settings as YAML and stop.")
    ] = False,
) -> None:
    """Train a named run, with settings of your own; under torchrun, on many devices."""
    from open_mythos.cli.train import run

    if resume and fresh:
        raise typer.BadParameter("--resume and --fresh exclude each other")
    code = run(
        name=name,
        overrides=overrides or [],
        out=out or Path("runs") / name,
        start="fresh" if fresh else STARTS[resume],
        config=config,
        print_config=print_config,
    )
    raise typer.Exit(code)


@app.command()
def sweep(
    checkpoint: Checkpoint,
    loops: Annotated[str, typer.Option(help="Depths to score, comma-separated.")] = "1,2,4,8",
    text: Annotated[
        Path | None,
        typer.Option(
            help="Text file to score; default: what the run held out.", show_default=False
        ),
    ] = None,
    batches: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Batches to score at each depth; default: what takes seconds, 8 at most.",
            show_default=False,
        ),
    ] = None,
    task: OneTask = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Score a trained model at several depths."""
    from open_mythos.cli.sweep import run

    run(
        checkpoint=checkpoint,
        loops=parse_depths(loops),
        text=text,
        batches=batches,
        task=task,
        device=device,
        as_json=as_json,
    )


@app.command()
def plot(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Picture: .png, .svg or .pdf; default: curves.png in the folder of a single run, "
            "or here.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Draw the curves of one or more runs, and their loss at every depth."""
    from open_mythos.cli.plot import run

    run(runs=runs, out=out)


@app.command()
def bench(
    suites: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SUITE]...",
            help="What to measure, e.g. train decode; default: what the size is measured with.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="R, 1b, cpu, cpu-512 or tiny; default: R on a GPU.", show_default=False),
    ] = None,
    attn: Annotated[str, typer.Option(help="gqa, mla or both.")] = "gqa,mla",
    peer: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the unpacked open-mythos 0.5.0; default: $OPEN_MYTHOS_PEER.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Results, added to.")] = Path("runs/bench.json"),
    budget: Annotated[
        float | None,
        typer.Option(help="Seconds; what does not fit is skipped.", show_default=False),
    ] = None,
    only: Annotated[
        str, typer.Option(help="Words, one of which suite/attention/case/library must hold.")
    ] = "",
    missing: Annotated[
        bool, typer.Option("--missing", help="Leave out what OUT has already.")
    ] = False,
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile", help="Compile training; default: on CUDA.", show_default=False
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: torch's own.")] = 0,
    device: Device = "auto",
    tables: Annotated[
        bool,
        typer.Option(
            "--table", help="Measure nothing: print the tables of OUT, a file or a folder."
        ),
    ] = False,
    readme: Annotated[
        Path | None,
        typer.Option(help="With --table: put the tables into this file.", show_default=False),
    ] = None,
) -> None:
    """Measure time, memory and accuracy on this machine, beside floors and other libraries."""
    from open_mythos.cli.bench import Options, run, table

    if tables:
        table(out, readme)
        return
    options = Options(
        suites=suites or [],
        size=size,
        attn=attn,
        peer=peer,
        out=out,
        budget=budget,
        only=only,
        missing=missing,
        compile=compiled,
        threads=threads,
        device=device,
    )
    raise typer.Exit(run(options))


@app.command()
def inspect(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME_OR_CHECKPOINT",
            help="A preset, a YAML file, or a checkpoint folder.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    loops: Loops = None,
    context: Annotated[
        int | None, typer.Option(help="Sequence length; default: the model's longest.")
    ] = None,
    backends: Annotated[
        bool, typer.Option("--backends", help="Show which implementations run on this machine.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Count a model's parameters, FLOPs and cache, without building it."""
    words: dict[str, Any] = {"overrides": overrides or [], "n_loops": loops, "context": context}
    if backends:
        from open_mythos.cli.inspect import run_backends

        run_backends(target=target, as_json=as_json, **words)
    elif target is not None:
        from open_mythos.cli.inspect import run

        run(target=target, as_json=as_json, **words)
    else:
        raise typer.BadParameter("name a preset, a YAML file or a folder, or ask for --backends")


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="Weights of open-mythos 0.5.0 (.pt), or the folder of a looped model of "
            "another project.",
            show_default=False,
        ),
    ],
    destination: Annotated[Path, typer.Argument(help="New folder.", show_default=False)],
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML file or model folder that says the sizes, where SOURCE does not.",
            show_default=False,
        ),
    ] = None,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="Allow a file that can run code when it is read.")
    ] = False,
    family: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="huginn, ouro or parcae, where config.json does not say.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Turn an old .pt file, or a Huginn, Ouro or Parcae checkpoint, into a model folder."""
    from open_mythos.cli.convert import run

    run(source=source, destination=destination, config=config, trusted=trusted, family=family)


def parse_depths(text: str) -> list[int]:
    """`1,2,4` -> [1, 2, 4].

    Raises:
        typer.BadParameter: If a part is not a whole number of at least 1.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"--loops {text!r} is not a list like 1,2,4,8")
    return [int(part) for part in parts]
