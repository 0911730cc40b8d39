"""Continuations: prompts read in one batch, each going on by its own request, token by token."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from open_mythos.errors import InputError
from open_mythos.generate.decode import Stop, check_room, lockstep, watched
from open_mythos.generate.logprobs import TokenLogprobs, token_logprobs
from open_mythos.generate.params import SamplingParams
from open_mythos.generate.rows import Row, choose
from open_mythos.generate.static import (
    Decoder,
    StaticModel,
    borrowed_decoder,
    capacity_bucket,
    rows_bucket,
)
from open_mythos.nn.cache import KVCache


Finish = Literal["stop", "length"]


class Guide(Protocol):
    """What may come next in a text that must have a form (`generate/constrain.py`)."""

    def allowed(self) -> Tensor:
        """Packed int32 words on the host, one bit per token, as `Row.allowed`."""
        ...

    def accept(self, token: int) -> None:
        """Go on behind a token that was allowed."""
        ...


@dataclass(frozen=True, eq=False)
class Ask:
    """One continuation that is wanted.

    Attributes:
        prompt: Token ids, at least one.
        params: How it is to go on; its `stop` is for whoever turns tokens into text.
        seed: Of its draws: `params.seed`, or one made for it (`fresh_seed`).
        index: Which of the request's `n` continuations.
        eos_id: The tokenizer's end of text.
        guide: What may come next, where `params.constraint` says so; used up by one continuation.
    """

    prompt: Sequence[int]
    params: SamplingParams
    seed: int
    index: int = 0
    eos_id: int | None = None
    guide: Guide | None = None

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens that end it."""
        return self.params.ends(self.eos_id)


@dataclass(frozen=True)
class Token:
    """A token and how it came about.

    Attributes:
        token: Its id.
        loops: In which the position that says it took part; where every loop runs for every
            position, all of them.
        logprobs: What was asked for, else None.
        finish: Why it is the last one; None if it is not.
    """

    token: int
    loops: int
    logprobs: TokenLogprobs | None = None
    finish: Finish | None = None


@dataclass
class _Line:
    """One continuation on its way."""

    ask: Ask
    limit: int
    output: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def row(self) -> Row:
        ask, guide = self.ask, None if self.ended else self.ask.guide
        allowed = None if guide is None else guide.allowed()
        return Row(
            ask.params, ask.seed, ask.index, ask.prompt, self.output, ask.ends, allowed
        )  # fmt: skip

    def take(self, token: int, loops: int, logprobs: TokenLogprobs | None) -> Token:
        """Note the next token."""
        self.output.append(token)
        finish: Finish | None = None
        if token in self.ask.ends:
            finish = "stop"
        elif len(self.output) >= self.limit:
            finish = "length"
        elif self.ask.guide is not None:
            self.ask.guide.accept(token)
        self.ended = finish is not None
        return Token(token, loops, logprobs, finish)


class Continuations:
    """Prompts of any length in one batch, one token for each that has not ended per `step`.

    What a continuation says does not depend on the others, but for rounding: a seeded one is the
    same alone. Prompts are padded on the left. On a GPU a token is one CUDA graph where `stream`
    would take one, and the choice of the token is made outside of it.

    >>> batch = Continuations(model, [Ask(ids, params, seed=1)])
    >>> while batch.going:
    ...     for token in batch.step(): ...
    """

    def __init__(
        self,
        model: StaticModel,
        asks: Sequence[Ask],
        *,
        n_loops: int | None = None,
        exit: object = None,
        static: bool | None = None,
    ) -> None:
        """Get ready; nothing runs before the first `step`.

        Args:
            model: The network, in evaluation mode.
            asks: One row each.
            n_loops: Loops per token; None is the config's max_loop_iters.
            exit: Where positions leave the loop early: see `OpenMythos.forward`.
            static: Decode in fixed shapes; None does so on a GPU wherever it is right.

        Raises:
            InputError: If the model has no room for a request, or lacks a token that it names.
        """
        if not asks:
            raise InputError("no continuation is asked for; give at least one Ask")
        self.model, self.exit = model, exit
        self.n_loops = model.cfg.max_loop_iters if n_loops is None else n_loops
        self._lines = [_Line(ask, token_limit(model, ask)) for ask in asks]
        for line in self._lines:
            line.ended = line.limit == 0
        assert isinstance(model, torch.nn.Module)
        self._device = next(model.parameters()).device
        if static and exit is not None:
            raise InputError(
                "static decoding runs every loop of every token; leave static or exit out"
            )
        if static is None:
            alone = exit is None and not watched(model) and not lockstep(model)
            static = self._device.type == "cuda" and alone
        self._static = static
        self._stack = ExitStack()
        self._decoder: Decoder | None = None
        self._cache: KVCache | None = None
        self._last: Tensor | None = None

    @property
    def going(self) -> bool:
        """Whether a continuation has not ended."""
        return any(not line.ended for line in self._lines)

    def end(self, row: int) -> None:
        """No further token of this row: its text met a stop string."""
        self._lines[row].ended = True

    @torch.no_grad()
    def step(self) -> list[Token | None]:
        """The next token of each row; None of one that has ended.

        Raises:
            InputError: If all have.
        """
        if not self.going:
            raise InputError("every continuation has ended; ask `going` before `step`")
        logits, loops = self._logits()
        chosen = choose(logits, [line.row for line in self._lines])
        wanted = [None if line.ended else line.ask.params.logprobs for line in self._lines]
        told = token_logprobs(logits, chosen, wanted)
        self._last = chosen
        out: list[Token | None] = []
        for line, token, used, report in zip(
            self._lines, chosen.tolist(), loops, told, strict=True
        ):
            out.append(None if line.ended else line.take(token, used, report))
        if not self.going:
            self.close()
        return out

    def close(self) -> None:
        """Give back what was borrowed; by itself at the end."""
        self._stack.close()
        self._decoder = self._cache = None

    def _logits(self) -> tuple[Tensor, Sequence[int]]:
        """Logits (B, V) of the next tokens, and the loops of the positions that say them."""
        everything = [self.n_loops] * len(self._lines)
        if self._last is None:
            return self._prefill(everything)
        if self._decoder is not None:
            spare = self._decoder.token.shape[0] - len(self._last)
            token = torch.cat((self._last, self._last[-1:].expand(spare)))
            return self._decoder.follow(token)[: len(self._last)], everything
        return self._pass(self._last.unsqueeze(1), None, everything)

    def _prefill(self, everything: list[int]) -> tuple[Tensor, Sequence[int]]:
        prompts = [line.ask.prompt for line in self._lines]
        width = max(map(len, prompts))
        room = width + max(line.limit for line in self._lines)
        ids = torch.tensor([[*[0] * (width - len(p)), *p] for p in prompts], device=self._device)
        starts = torch.tensor([width - len(p) for p in prompts], device=self._device)
        padded = any(len(p) < width for p in prompts)
        batch = len(prompts)
        if not self._static:
            self._cache = self.model.new_cache(batch, room)
            mask = torch.arange(width, device=self._device) >= starts.unsqueeze(1)
            return self._pass(ids, mask if padded else None, everything)
        rows = rows_bucket(batch)
        capacity = capacity_bucket(room, self.model.cfg.max_seq_len)
        self._decoder = self._stack.enter_context(
            borrowed_decoder(self.model, rows, capacity, self.n_loops, padded=padded)
        )
        spare = torch.arange(rows, device=self._device).clamp(max=batch - 1)
        self._decoder.prefill(ids[spare], starts[spare] if padded else None)
        return self._decoder.logits[:batch], everything

    def _pass(
        self, ids: Tensor, mask: Tensor | None, everything: list[int]
    ) -> tuple[Tensor, Sequence[int]]:
        told: dict[str, Any] = {} if self.exit is None else {"exit": self.exit}
        counted = self.exit is not None or self.model.cfg.readout != "last"
        if counted:
            told["return_output"] = True
        out: Any = self.model(
            ids, self.n_loops, self._cache, attention_mask=mask, logits_to_keep=1, **told
        )
        if not counted:
            return out[:, -1], everything
        return out.logits[:, -1], out.loops_used[:, -1].tolist()


def token_limit(model: StaticModel, ask: Ask) -> int:
    """Tokens to add at most.

    Raises:
        InputError: If the model has no room for them, or the prompt is empty.
    """
    if not ask.prompt:
        raise InputError("the prompt is empty; a text starts from at least one token, such as eos")
    cfg, params = model.cfg, ask.params
    params.check_vocab(cfg.vocab_size)
    if params.constraint is not None and ask.guide is None:
        raise InputError(
            "params.constraint needs the tokenizer; generate text (`generate/text.py`), or give "
            "the Ask a guide (`generate/constrain.py`)"
        )
    left = max(min(cfg.max_output_tokens, cfg.max_seq_len - len(ask.prompt)), 0)
    limit = left if params.max_tokens is None else params.max_tokens
    check_room(cfg, len(ask.prompt), Stop(limit))
    return limit
