"""Lanes: where positions stand between two loops, and the account of their loops so far."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.engine.thresholds import Thresholds
from open_mythos.nn.loop.exiting import Exiting, Leave
from open_mythos.nn.loop.exits.criterion import Criterion, Exit, Kept
from open_mythos.nn.loop.exits.gates import Act, Gate
from open_mythos.nn.loop.exits.predictions import KL, Entropy, Stability
from open_mythos.nn.loop.exits.states import Acceleration, Latent, Settled
from open_mythos.nn.loop.halting import TABLES, HaltingLedger
from open_mythos.nn.loop.readout import ActMean, LastState, Readout


# What exits remember before the first loop, such that it goes as if there were nothing: a score
# that is no number lets nobody go. Those named here do not ask which loop it is.
START: dict[object, tuple[float, ...]] = {
    Act: (0.0,),
    Gate: (1.0,),
    Stability: (-1, 0.0),
    Acceleration: (math.nan, math.nan),
    Latent: (),
    Settled: (math.nan,),
    KL: (),
    Entropy: (),
}


@dataclass(frozen=True)
class Party:
    """Rows of a call whose accounts are kept in one way.

    Attributes:
        leave: How they leave early; None: as the readout says.
        loop: Loops done; where nobody counts them, 1.
        rows: (n,) int64, which rows of the call; None: all.
    """

    leave: Leave | None
    loop: int
    rows: Tensor | None = None

    @property
    def known(self) -> bool:
        """Whether what it remembers does not depend on the loop."""
        return self.leave is None or kind_of(self.leave.exit) in START


def counted(rule: Exit, loop: int) -> int:
    """Loops done, as far as they make a difference to an exit."""
    return 1 if kind_of(rule) in START else loop


class Lanes:
    """Tables of one row per lane, and one more, which calls are filled up with.

    Positions of all requests and at all loops are neighbours here: a call takes the lanes that it
    is for, in any order, and puts back what they have become.

    Attributes:
        tables: By name, (lanes + 1, ...).
        spare: The lane that is nobody's.
    """

    def __init__(self, cfg: MythosConfig, lanes: int, width: int, like: Tensor) -> None:
        """Room for `lanes` positions, whose states are `width` wide, in the dtype of `like`."""
        self.cfg, self.spare = cfg, lanes
        wide = torch.float64 if like.dtype == torch.float64 else torch.float32

        def room(*shape: int, dtype: torch.dtype | None = None) -> Tensor:
            return torch.zeros(lanes + 1, *shape, dtype=dtype or like.dtype, device=like.device)

        half = cfg.rope_dim // 2
        self.tables = {
            "h": room(width),
            "e": room(cfg.dim),
            "value": room(width),
            "cos": room(half, dtype=torch.float32),
            "sin": room(half, dtype=torch.float32),
            "out": room(width),
            "exited": room(dtype=torch.bool),
            "read": room(
                dtype=torch.int64
            ),  # loops after which it left; 0: it has not, or nobody asks
        }
        if cfg.readout != "last":
            self.tables |= {
                "mean": room(width, dtype=wide),
                "spent": room(dtype=wide),
                "halted": room(dtype=torch.bool),
                "loops": room(dtype=torch.int64),
                "remainder": room(dtype=wide),
            }
        self._kept: dict[object, tuple[Tensor, ...]] = {}
        self._log_probs: Tensor | None = None

    @property
    def kinds(self) -> tuple[int, bool]:
        """What `open` has to start anew changes with this alone."""
        return len(self._kept), self._log_probs is not None

    def take(self, name: str, lanes: Tensor) -> Tensor:
        """(n, 1, ...) of `lanes` (n,)."""
        return self.tables[name].index_select(0, lanes).unsqueeze(1)

    def put(self, name: str, lanes: Tensor, rows: Tensor) -> None:
        """Keep (n, 1, ...) for `lanes` (n,)."""
        self.tables[name].index_copy_(0, lanes, rows.squeeze(1))

    def clear(self) -> None:
        """Let the spare lane's state start anew: looped for ever it would grow past all numbers."""
        self.tables["h"][self.spare].zero_()

    def open(self, lanes: Tensor, **rows: Tensor) -> None:
        """Positions that enter the loop: their state, their input and their angles."""
        for name, tensor in rows.items():
            self.put(name, lanes, tensor)
        for name in ("exited", "read", *TABLES):
            if name in self.tables:
                self.tables[name].index_fill_(0, lanes, 0)
        for kind, tables in self._kept.items():
            for table, start in zip(tables, START.get(kind, ()), strict=False):
                table.index_fill_(0, lanes, start)
        if self._log_probs is not None:
            self._log_probs.index_fill_(0, lanes, math.nan)

    def account(self, party: Party, lanes: Tensor, h: Tensor) -> Readout:
        """The readout of rows in `lanes` (n,), whose states are `h` (n, 1, width)."""
        inner: Readout = LastState(h)
        if self.cfg.readout != "last":
            ledger = HaltingLedger(
                threshold=self.cfg.act_threshold,
                settled=self.cfg.readout != "act_sum",
                picks=self.cfg.readout == "act_last",
                **{name: self.take(name, lanes) for name in TABLES},
            )
            inner = ActMean(ledger, h.dtype)
        if party.leave is None:
            return inner
        exited = self.take("exited", lanes)
        kept, log_probs = self.recall(party, lanes)
        return Exiting(
            inner=inner,
            leave=party.leave,
            loop=party.loop,
            state=h,
            halted=exited,
            loops=exited.long(),
            out=self.take("out", lanes),
            kept=kept,
            log_probs=log_probs,
        )

    def recall(self, party: Party, lanes: Tensor) -> tuple[Kept, Tensor | None]:
        """What a party's exit remembers of rows in `lanes` (n,), and their last predictions."""
        if party.leave is None or not party.loop:
            return (), None
        rule = party.leave.exit
        kept = tuple(t.index_select(0, lanes).unsqueeze(1) for t in self._remembered(rule))
        if rule.predictions < 2:
            return kept, None
        return kept, self._predicted().index_select(0, lanes).unsqueeze(1)

    def remember(self, rule: Exit, lanes: Tensor, kept: Kept, log_probs: Tensor | None) -> None:
        """What an exit is to remember of rows in `lanes` (n,), (n, 1, ...) each."""
        kind = kind_of(rule)
        if kept and kind not in self._kept:
            self._kept[kind] = tuple(self._like(t) for t in kept)
        for table, rows in zip(self._kept.get(kind, ()), kept, strict=False):
            table.index_copy_(0, lanes, rows.squeeze(1))
        if log_probs is not None:
            self._predicted().index_copy_(0, lanes, log_probs.squeeze(1))

    def prepare(self, rule: Exit) -> None:
        """Make room for what exits of this kind remember, before a call is captured."""
        self._remembered(rule)
        if rule.predictions > 1:
            self._predicted()

    def _remembered(self, rule: Exit) -> tuple[Tensor, ...]:
        """What exits of this kind remember, made as it is before the first loop."""
        kind = kind_of(rule)
        if kind in START and kind not in self._kept:
            h = self.tables["h"]
            real = torch.float64 if h.dtype == torch.float64 else torch.float32
            shapes: list[tuple[int, ...]] = [()] * len(START[kind])
            types = [torch.int64 if start == -1 else real for start in START[kind]]
            if kind is Acceleration:
                shapes[0] = (self.cfg.dim,)
            parts = zip(shapes, types, START[kind], strict=True)
            self._kept[kind] = tuple(
                torch.full((len(h), *shape), start, dtype=dtype, device=h.device)
                for shape, dtype, start in parts
            )
        return self._kept.get(kind, ())

    def _predicted(self) -> Tensor:
        """Predictions of the loop before, (lanes + 1, vocab)."""
        if self._log_probs is None:
            h = self.tables["h"]
            real = torch.float64 if h.dtype == torch.float64 else torch.float32
            shape = (len(h), self.cfg.vocab_size)
            self._log_probs = torch.full(shape, math.nan, dtype=real, device=h.device)
        return self._log_probs

    def keep(self, account: Readout, lanes: Tensor) -> None:
        """What an account has become."""
        if isinstance(account, ActMean):
            for name in TABLES:
                self.put(name, lanes, getattr(account.ledger, name))
        if not isinstance(account, Exiting):
            return
        self.keep(account.inner, lanes)
        self.put("exited", lanes, account.halted)
        self.put("out", lanes, account.out)
        self.remember(account.leave.exit, lanes, account.kept, account.log_probs)

    def _like(self, rows: Tensor) -> Tensor:
        return rows.new_zeros(self.spare + 1, *rows.shape[2:])


def kind_of(rule: Exit) -> object:
    """What exits that remember the same have in common; an object of the user's is its own kind."""
    if isinstance(rule, Thresholds):
        rule = rule.rule
    return type(rule) if isinstance(rule, Criterion) else id(rule)


@dataclass(frozen=True)
class Accounts:
    """The readout of a call whose rows stand at different loops and leave in different ways.

    As far as `RecurrentBlock.turn` asks of a `Readout`.

    Attributes:
        lanes: Where the accounts are kept.
        index: (N,) int64, the lanes of the rows.
        parties: The rows, each once.
        before: (N, 1, width), their states.
        asks: Whether an account wants the halting probability.
        value: (N, 1, width), what the coda would read of each row.
        left: (N, 1) boolean, rows that have halted or left by their exit.
    """

    lanes: Lanes
    index: Tensor
    parties: Sequence[Party]
    before: Tensor
    asks: bool
    value: Tensor
    left: Tensor

    fusable: ClassVar[bool] = False

    def step(self, h: Tensor, p: Tensor | None, *, last: bool | Tensor) -> tuple["Accounts", None]:
        """Take in a loop, party by party."""
        assert isinstance(last, Tensor)
        value, left = self.value, self.left
        for party in self.parties:
            if party.rows is None:
                account, _ = self.lanes.account(party, self.index, self.before).step(
                    h, p, last=last
                )
                self.lanes.keep(account, self.index)
                value = account.value
                left = left if account.halted is None else account.halted
                continue
            rows, index = party.rows, self.index[party.rows]
            account, _ = self.lanes.account(party, index, self.before[rows]).step(
                h[rows], None if p is None else p[rows], last=last[rows]
            )
            self.lanes.keep(account, index)
            value = value.index_copy(0, rows, account.value)
            if account.halted is not None:
                left = left.index_copy(0, rows, account.halted)
        return replace(self, value=value, left=left), None
