"""WandbSink: the same for Weights & Biases, offline where no key or no network is."""

import importlib
import netrc
import os
import threading
import uuid
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from open_mythos.checkpoint.files import read_json, write_json
from open_mythos.config.overrides import to_plain
from open_mythos.data.hub import hub_answers
from open_mythos.errors import MissingExtraError
from open_mythos.train.records import EvalRecord, StepRecord
from open_mythos.train.scalars import eval_scalars, step_scalars
from open_mythos.train.sinks import RunInfo, logged, thinned


PROJECT = "open-mythos"
ID_FILE = "wandb.json"
# What wandb may take to begin a run, and to send what is left of it: it would wait far longer.
BEGIN_S = 60
END_S = 120.0


class WandbSink:
    """Sends a run to W&B, or keeps it in the run's folder for `wandb sync`.

    Offline is chosen, and said once, where there is no API key or no server answers: wandb itself
    would ask, or try again for minutes. WANDB_MODE, WANDB_PROJECT and wandb's other variables hold.
    Whatever fails here is said once and ends the sending, never the training.
    """

    def __init__(self) -> None:
        """Find wandb, before anything is trained.

        Raises:
            MissingExtraError: If wandb is not installed.
        """
        try:
            self._wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise MissingExtraError("wandb", "wandb", "log_to=wandb") from error
        self._logged: Any = None
        self._run: RunInfo | None = None
        self._first = 0

    def open(self, run: RunInfo) -> None:
        """Begin, or go on with, the run of this folder; offline, every start is one of its own."""
        self._run = run
        mode, reason = choose_mode(server(self._wandb))
        if mode == "online":
            try:
                self._begin(run, mode, id=run_id(run.folder), resume="allow")
            except self._failures() as error:
                mode, reason = "offline", f"wandb could not begin a run ({first_line(error)})"
        if mode != "online":
            try:
                self._begin(run, mode)
            except self._failures() as error:
                run.say(f"wandb is left out: {first_line(error)}")
                return
        if reason:
            sends = f"`wandb sync {run.folder / 'wandb'}/offline-run-*` sends it"
            run.say(f"wandb: {reason}; kept offline, {sends}")
        elif mode == "online":
            run.say(f"wandb: {getattr(self._logged, 'url', 'online')}")

    def step(self, record: StepRecord) -> None:
        """The step's numbers, unless the run is so long that not every step is shown."""
        assert self._run is not None, "open the sink first"
        # A resumed run's server has seen the steps that are taken again, and equal they are.
        recipe = self._run.recipe
        if record.step >= self._first and thinned(record.step, recipe.steps):
            by_loop = logged(record.step, recipe)
            self._send(step_scalars(record, by_loop=by_loop), record.step)

    def evaluation(self, record: EvalRecord) -> None:
        """Numbers and samples."""
        if self._logged is None or record.step < self._first:
            return
        html = self._wandb.Html
        texts = {tag: html(f"<pre>{escape(text)}</pre>") for tag, text in record.texts.items()}
        self._send({**eval_scalars(record), **texts}, record.step)

    def note(self, text: str) -> None:
        """Nothing: notes have no step."""

    def close(self) -> None:
        """Send what is left, in bounded time; closing twice is harmless."""
        if self._logged is None:
            return
        ending = threading.Thread(target=self._finish, args=(self._logged,), daemon=True)
        self._logged = None
        ending.start()
        ending.join(END_S)
        if ending.is_alive() and self._run is not None:
            self._run.say(f"wandb did not end within {END_S:.0f} s; the run is whole without it")

    def _begin(self, run: RunInfo, mode: str, **identity: str) -> None:
        self._logged = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.folder.name or run.recipe.name,
            group=run.recipe.name,
            config=to_plain(run.recipe),
            dir=str(run.folder),
            mode=mode,
            settings=self._wandb.Settings(init_timeout=BEGIN_S, silent=True),
            **identity,
        )
        self._first = int(getattr(self._logged, "step", 0) or 0)

    def _send(self, values: Mapping[str, Any], step: int) -> None:
        if self._logged is None:
            return
        try:
            self._logged.log(dict(values), step=step)
        except self._failures() as error:
            self._logged = None
            assert self._run is not None
            self._run.say(f"wandb stopped at step {step}: {first_line(error)}")

    def _finish(self, logged: Any) -> None:
        try:
            logged.finish()
        except self._failures() as error:
            assert self._run is not None
            self._run.say(f"wandb did not end well: {first_line(error)}")

    def _failures(self) -> tuple[type[Exception], ...]:
        own: type[Exception] = self._wandb.errors.Error
        return (own, OSError, RuntimeError, TimeoutError)


def choose_mode(address: str) -> tuple[str, str]:
    """Online or not, and why not where nobody asked for it: never a question, never a long wait."""
    asked = os.environ.get("WANDB_MODE", "").lower()
    if asked:
        return asked, ""
    if not has_key(urlsplit(address).hostname or ""):
        return "offline", "no API key (WANDB_API_KEY, or `wandb login`)"
    if not hub_answers(address):
        return "offline", f"no answer from {address}"
    return "online", ""


def has_key(host: str) -> bool:
    """Whether wandb would find credentials for a server without asking for them."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    named = os.environ.get("NETRC")
    files = [Path(named)] if named else [Path.home() / name for name in (".netrc", "_netrc")]
    for file in files:
        try:
            found = netrc.netrc(str(file)).hosts
        except (OSError, netrc.NetrcParseError):
            continue
        if host in found or "api.wandb.ai" in found:
            return True
    return False


def server(wandb: Any) -> str:
    """Where runs are sent, after wandb's own settings."""
    return str(wandb.Settings().base_url)


def run_id(folder: Path) -> str:
    """The id under which W&B knows the run of this folder, made when first asked for."""
    file = folder / ID_FILE
    if not file.is_file():
        write_json(file, {"id": uuid.uuid4().hex[:12]})
    return str(read_json(file)["id"])


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)
