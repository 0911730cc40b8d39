"""DataConfig: what a run sees, text, conversations or a task, as plain data."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from open_mythos.data.chat_rows import Overlong
from open_mythos.data.tasks.pointer import Layout, Maps
from open_mythos.data.tasks.registry import TASKS, Setting, TaskKind, build_task
from open_mythos.data.tasks.task import GeneratedTask
from open_mythos.errors import ConfigError, InputError
from open_mythos.train.checks import at_least, whole


DataKind = Literal["text", "chat", TaskKind]
# What two tasks take from DataConfig itself; everything else is in DataConfig.task.
OWN_SETTINGS: dict[DataKind, tuple[str, ...]] = {
    "pointer": ("states", "queries", "max_hops", "layout", "maps", "loops_per_hop"),
    "parity": ("length",),
}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the model sees.

    Attributes:
        kind: "text" (windows of a corpus), "chat" (conversations, of which the answers are learnt),
            or a task of data/tasks/registry.py: "pointer" (follow a random map for k hops),
            "parity" (running parity of a bit string), "maze" and so on.
        batch_size: Sequences per optimizer step, over all ranks and passes together.
        corpus: Text: "plays" (bundled), the path of a UTF-8 text file, or that of a folder made by
            `open-mythos data prepare`, which has its own tokenizer and held-out documents. Chat: a
            .jsonl or .jsonl.gz file, or a folder of them.
        mixture: Text: instead of a corpus, prepared folders and their weights; a weight of 0
            leaves one out.
        document_mask: Text and chat: positions look at their own document or conversation only.
        tokenizer: Text file and chat: "plays" (the bundled vocabulary), "byte" (no file at all),
            "o200k_harmony" (extra [tok]), the path of a tokenizer.json or of a folder with one, or
            a Hugging Face id.
        seq_len: Text and chat: positions per sequence.
        validation_share: Text file: share of the characters held out, in whole documents. Chat:
            share of the conversations, about.
        chat_template: Chat: path of a Jinja file that goes before the tokenizer's own template.
        overlong: Chat: "cut" conversations that are longer than a sequence, or "refuse" them.
        states: Pointer: size of the set that the map maps to itself.
        queries: Pointer: questions per sequence, each one scored.
        max_hops: Pointer: hops of the hardest batches.
        layout: Pointer: "pairs" (two tokens an entry of the map) or "joint" (one).
        maps: Pointer: "random", "permutation" (one-to-one) or "cycle" (a single one).
        loops_per_hop: Pointer: loops granted per hop while training; 0, where the row tells the
            hops: the depth sampler decides.
        length: Parity: bits of the longest strings.
        task: Tasks: settings of the task by name, such as {"digits": 3}; what is left out is as
            the task has it (docs/tasks.md).
    """

    kind: DataKind = "text"
    batch_size: int = 16
    corpus: str = "plays"
    mixture: dict[str, float] = field(default_factory=dict)
    document_mask: bool = False
    tokenizer: str = "plays"
    seq_len: int = 128
    validation_share: float = 0.1
    chat_template: str = ""
    overlong: Overlong = "cut"
    states: int = 16
    queries: int = 32
    max_hops: int = 8
    layout: Layout = "pairs"
    maps: Maps = "random"
    loops_per_hop: int = 1
    length: int = 24
    task: dict[str, Setting] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("batch_size", "seq_len", "queries", "max_hops", "length"):
            whole(f"data.{name}", getattr(self, name), 1)
        whole("data.loops_per_hop", self.loops_per_hop, 0)
        whole("data.states", self.states, 2)
        if not 0.0 < self.validation_share < 1.0:
            raise ConfigError(
                f"data.validation_share is {self.validation_share}; it must lie inside (0, 1)"
            )
        if self.kind in TASKS:
            self.build_task(seed=0)
        elif self.task:
            raise ConfigError(f"data.task is {self.task}, but data.kind {self.kind!r} is no task")
        if not isinstance(self.document_mask, bool):
            raise ConfigError(f"data.document_mask is True or False, not {self.document_mask!r}")
        for path, weight in self.mixture.items():
            at_least(f"data.mixture of {path!r}", weight, 0)
        if self.mixture and not any(self.mixture.values()):
            raise ConfigError("data.mixture has no weight above 0; raise one, or set it to {}")
        if self.overlong not in get_args(Overlong):
            raise ConfigError(f"data.overlong is {self.overlong!r}; it must be 'cut' or 'refuse'")

    @property
    def row_length(self) -> int:
        """Positions of the longest training rows, which the model must have room for."""
        if self.kind not in TASKS:
            return self.seq_len
        task = self.build_task(seed=0)
        return task.row_length(task.max_level)

    def build_task(self, seed: int) -> GeneratedTask:
        """The task of these settings, its training batches fixed by `seed`.

        Raises:
            ConfigError: If `task` has a setting that the kind does not, or a value does not fit.
        """
        own = {name: getattr(self, name) for name in OWN_SETTINGS.get(self.kind, ())}
        for name in own.keys() & self.task.keys():
            raise ConfigError(f"data.task.{name} is data.{name} for the kind {self.kind!r}")
        try:
            return build_task(
                self.kind, {**own, **self.task}, batch_size=self.batch_size, seed=seed
            )
        except InputError as error:
            raise ConfigError(f"data.task: {error}") from None
