"""Session: a conversation with a model, or a text that both write; no terminal in it."""

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from open_mythos.data.chat import ANSWERER, encode_prompt, end_of_turn
from open_mythos.data.tokenizer import Tokenizer
from open_mythos.errors import InputError
from open_mythos.generate.params import SamplingParams
from open_mythos.generate.text import Piece, stream_text
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.exits.registry import CALIBRATED


Turn = dict[str, str]
MOST_ANSWER = 0.5  # of the context: what is read has at least the rest


@dataclass
class Manner:
    """How the model is to go on; changed while the session lasts.

    Attributes:
        params: Of every answer; its `max_tokens` is what an answer may have where there is room.
        n_loops: Loops per token; None is the model's own number.
        exit: Where positions leave the loop early, by name.
    """

    params: SamplingParams = field(default_factory=SamplingParams)
    n_loops: int | None = None
    exit: str | None = None


class Session:
    """What was said, and how to go on.

    With a chat template the model is asked turn by turn. Without one the text so far is continued:
    each line that is said goes on behind it, on a line of its own.

    Attributes:
        manner: How.
        by_turns: Whether there are turns.
        system: What the model is told before the first turn; "" for nothing.
        turns: Questions and answers, whole.
        text: What both wrote, where there are no turns.
        left_out: Turns, or tokens of the text, that the last answer's prompt had no room for.
    """

    def __init__(
        self,
        model: OpenMythos,
        tokenizer: Tokenizer,
        manner: Manner | None = None,
        *,
        by_turns: bool | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """With nothing said.

        Args:
            model: The network.
            tokenizer: Its own.
            manner: How to go on.
            by_turns: Whether to chat; None does where the tokenizer has a chat template.
            generator: Of the seeds of the answers; None is torch's own.

        Raises:
            InputError: If it shall chat and there is no template, or a broken one.
        """
        self.model, self._tokenizer = model, tokenizer
        self.manner = Manner() if manner is None else manner
        has_template = bool(getattr(tokenizer, "chat_template", None))
        self.by_turns = has_template if by_turns is None else by_turns
        self._end = end_of_turn(tokenizer) if self.by_turns else None
        self._generator = generator
        self._saved: set[Path] = set()
        self.system = ""
        self.reset()

    def reset(self) -> None:
        """Forget what was said, but for the system's words."""
        self.turns: list[Turn] = []
        self.text = ""
        self.left_out = 0

    @property
    def deepest(self) -> int:
        """Loops that a token can take."""
        stored = self.model.calibrated
        if self.manner.n_loops is not None:
            return self.manner.n_loops
        if self.manner.exit == CALIBRATED and stored is not None:
            return stored.n_loops
        return self.model.cfg.max_loop_iters

    @property
    def depth(self) -> str:
        """How deep it thinks, for people."""
        found = f"{self.deepest} loop" + ("s" if self.deepest > 1 else "")
        if self.manner.exit is not None:
            return f"at most {found}, exit {self.manner.exit}"
        halts = self.model.cfg.readout != "last"
        return f"at most {found}, until the model's own halting ends them" if halts else found

    def answer(self, said: str) -> Generator[Piece, None, None]:
        """The model's answer, or what it makes of the text; pieces come while it is written.

        What was said and written is noted when the pieces end, or their generator is closed before;
        if nothing was begun, nothing is.

        Args:
            said: The message. Without turns, the next line of the text; "" only goes on.

        Raises:
            InputError: If the message is longer than the context, or the template refuses it.
            MissingExtraError: If a constraint needs a package that is not installed.
        """
        ids = self._turns_prompt(said) if self.by_turns else self._text_prompt(said)
        params = self.manner.params
        ends = params.stop_token_ids if self._end is None else (*params.stop_token_ids, self._end)
        most = self._most(len(ids))
        asked = replace(params, max_tokens=most, stop_token_ids=ends,
                        min_tokens=min(params.min_tokens, most))  # fmt: skip
        pieces = stream_text(
            self.model, self._tokenizer, ids, asked,
            n_loops=self.deepest, exit=self.manner.exit, generator=self._generator,
        )  # fmt: skip
        return self._noted(said, pieces)

    def save(self, path: Path) -> str:
        """Write what was said to a new file, or one that this session wrote; says what it holds.

        Turns become a line of the kind that `open-mythos train sft data.corpus=FILE.jsonl` reads.

        Raises:
            InputError: If it cannot be written, or is somebody else's.
        """
        path = path.expanduser()
        if path.exists() and path.resolve() not in self._saved:
            raise InputError(
                f"{str(path)!r} exists, and this session did not write it; name another"
            )
        if self.by_turns:
            shown = json.dumps({"messages": self._opening + self.turns}, ensure_ascii=False) + "\n"
        else:
            shown = self.text + "\n"
        try:
            path.write_text(shown, encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InputError(f"cannot write {str(path)!r}: {error}") from error
        self._saved.add(path.resolve())
        what = f"{len(self.turns)} turns" if self.by_turns else f"{len(self.text)} characters"
        return f"{what} in {path}"

    # -- parts -----------------------------------------------------------------------------------

    @property
    def _opening(self) -> list[Turn]:
        return [{"role": "system", "content": self.system}] if self.system else []

    def _turns_prompt(self, said: str) -> list[int]:
        """The conversation's ids; without its oldest pairs where all has no room."""
        kept: Sequence[Turn] = self.turns
        while True:
            asked = [*self._opening, *kept, {"role": "user", "content": said}]
            ids = encode_prompt(self._tokenizer, asked)
            if not kept or len(ids) <= self._readable:
                break
            kept = kept[2:]
        if len(ids) >= self.model.cfg.max_seq_len:
            raise InputError(
                f"the message has {len(ids)} tokens with what stands around it; the model's "
                f"context is {self.model.cfg.max_seq_len}: say less"
            )
        self.left_out = len(self.turns) - len(kept)
        return ids

    def _text_prompt(self, said: str) -> list[int]:
        """The last tokens of the text that there is room for."""
        ids = self._tokenizer.encode(self._continued(said))
        self.left_out = max(len(ids) - self._readable, 0)
        return ids[self.left_out :]

    def _continued(self, said: str) -> str:
        return f"{self.text}\n{said}" if self.text and said else self.text + said

    @property
    def _readable(self) -> int:
        """Tokens of a prompt beside which an answer has the room that it is to have."""
        cfg, asked = self.model.cfg, self.manner.params.max_tokens
        most = max(int(MOST_ANSWER * cfg.max_seq_len), 1)
        return cfg.max_seq_len - min(most, cfg.max_output_tokens if asked is None else asked)

    def _most(self, read: int) -> int:
        cfg, asked = self.model.cfg, self.manner.params.max_tokens
        room = min(cfg.max_output_tokens, cfg.max_seq_len - max(read, 1))
        return room if asked is None else min(asked, room)

    def _noted(self, said: str, pieces: Iterator[Piece]) -> Generator[Piece, None, None]:
        written: list[str] = []
        try:
            for piece in pieces:
                written.append(piece.text)
                yield piece
        finally:
            text = "".join(written)
            if self.by_turns:
                self.turns += [{"role": "user", "content": said}]
                self.turns += [{"role": ANSWERER, "content": text}]
            else:
                self.text = self._continued(said) + text
