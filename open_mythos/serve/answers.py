"""Answers: what the engine said, in the form of OpenAI's interface, whole or piece by piece."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from uuid import uuid4

from open_mythos.engine.request import Event
from open_mythos.generate.logprobs import TokenLogprobs
from open_mythos.serve.questions import Question
from open_mythos.serve.refusals import broken
from open_mythos.serve.spellings import Spellings


LEAST = -9999.0  # what is impossible, in a form that JSON has


class Answer(Protocol):
    """One question's answer; says each event once, of a continuation in order."""

    def chunk(self, prompt: int, event: Event) -> dict[str, Any]:
        """A piece of a stream."""
        ...

    def whole(self, told: Mapping[tuple[int, int], Sequence[Event]]) -> dict[str, Any]:
        """Everything at once, by prompt and continuation."""
        ...

    def end(self) -> dict[str, Any]:
        """A stream's last piece: what it cost."""
        ...


class Ledger:
    """What an answer of either kind has: a name, a time and a cost.

    Attributes:
        question: What was asked.
        spellings: Tokens by themselves.
        tokens: Written so far.
        loops: Of the positions that said them.
    """

    def __init__(self, question: Question, spellings: Spellings, model: str, prefix: str) -> None:
        """With nothing said."""
        self.question, self.spellings = question, spellings
        self._model, self._created = model, int(time.time())
        self._id = f"{prefix}-{uuid4().hex}"
        self.tokens = self.loops = 0

    def count(self, events: Sequence[Event]) -> list[int]:
        """Loops of each token.

        Raises:
            Refusal: If the model's numbers were none.
        """
        if any(event.finish == "error" for event in events):
            raise broken()
        loops = [event.loops for event in events if event.token is not None]
        self.tokens += len(loops)
        self.loops += sum(loops)
        return loops

    def details(self, events: Sequence[Event]) -> dict[str, Any]:
        """Each token by its id, as it is spelt and with its loops, where that was asked for."""
        if not self.question.details:
            return {}
        told = [
            {
                "id": event.token,
                "token": self.spellings.text(event.token),
                "loops": event.loops,
                "left_after": event.read,
            }
            for event in events
            if event.token is not None
        ]
        return {"token_details": told}

    def frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """What stands around choices."""
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens, and the loops spent on those that were written."""
        read = self.question.prompt_tokens
        return {
            "prompt_tokens": read,
            "completion_tokens": self.tokens,
            "total_tokens": read + self.tokens,
            "loops": self.loops,
            "loops_per_token": round(self.loops / self.tokens, 4) if self.tokens else 0.0,
        }


class CompletionAnswer(Ledger):
    """Of /v1/completions."""

    def __init__(self, question: Question, spellings: Spellings, model: str) -> None:
        """With nothing said."""
        super().__init__(question, spellings, model, "cmpl")
        self._offsets: dict[tuple[int, int], int] = {}  # characters so far, by continuation
        self._prompts: dict[int, tuple[TokenLogprobs | None, ...]] = {}

    def chunk(self, prompt: int, event: Event) -> dict[str, Any]:
        """A piece of a stream."""
        return self.frame("text_completion", [self._choice(prompt, event.choice, [event])])

    def whole(self, told: Mapping[tuple[int, int], Sequence[Event]]) -> dict[str, Any]:
        """Everything at once."""
        choices = [self._choice(*place, told[place]) for place in sorted(told)]
        return self.frame("text_completion", choices) | {"usage": self.usage}

    def end(self) -> dict[str, Any]:
        """A stream's last piece."""
        return self.frame("text_completion", []) | {"usage": self.usage}

    def _choice(self, prompt: int, choice: int, events: Sequence[Event]) -> dict[str, Any]:
        loops = self.count(events)
        first = (prompt, choice) not in self._offsets
        if first:
            echo = self.question.echo
            self._offsets[prompt, choice] = 0 if echo else len(self.question.prompts[prompt])
        shown = self.question.prompts[prompt] if first and self.question.echo else ""
        return {
            "index": prompt * self.question.choices + choice,
            "text": shown + "".join(event.text for event in events),
            "logprobs": self._logprobs(prompt, choice, events, first),
            "finish_reason": events[-1].finish,
            "loops": loops,
            **self.details(events),
        }

    def _logprobs(
        self, prompt: int, choice: int, events: Sequence[Event], first: bool
    ) -> dict[str, Any] | None:
        if self.question.alternatives is None:
            return None
        told: list[tuple[int, TokenLogprobs | None]] = []
        if first and self.question.echo:
            if events[0].prompt:
                self._prompts[prompt] = events[0].prompt
            known = self._prompts.get(prompt, ())
            told += zip(self.question.requests[prompt].prompt, known, strict=False)
        told += [(event.token, event.logprobs) for event in events if event.token is not None]
        offsets = []
        for token, _ in told:
            offsets.append(self._offsets[prompt, choice])
            self._offsets[prompt, choice] += len(self.spellings.text(token))
        return {
            "tokens": [self.spellings.text(token) for token, _ in told],
            "token_logprobs": [None if one is None else _sound(one.logprob) for _, one in told],
            "top_logprobs": [self._top(one) for _, one in told]
            if self.question.alternatives
            else None,
            "text_offset": offsets,
        }

    def _top(self, one: TokenLogprobs | None) -> dict[str, float] | None:
        """By spelling, the token itself too; of tokens spelt alike, the likeliest counts."""
        if one is None:
            return None
        found: dict[str, float] = {}
        for token, value in (*one.top, (one.token, one.logprob)):
            found.setdefault(self.spellings.text(token), _sound(value))
        return found


class ChatAnswer(Ledger):
    """Of /v1/chat/completions."""

    def __init__(self, question: Question, spellings: Spellings, model: str) -> None:
        """With nothing said."""
        super().__init__(question, spellings, model, "chatcmpl")
        self._begun: set[int] = set()

    def chunk(self, prompt: int, event: Event) -> dict[str, Any]:
        """A piece of a stream; a continuation's first names who speaks."""
        del prompt  # there is one
        delta: dict[str, Any] = {"content": event.text}
        if event.choice not in self._begun:
            self._begun.add(event.choice)
            delta = {"role": "assistant", **delta}
        return self.frame(
            "chat.completion.chunk", [{"delta": delta, **self._rest(event.choice, [event])}]
        )

    def whole(self, told: Mapping[tuple[int, int], Sequence[Event]]) -> dict[str, Any]:
        """Everything at once."""
        choices = []
        for _, choice in sorted(told):
            events = told[0, choice]
            text = "".join(event.text for event in events)
            message = {"role": "assistant", "content": text, "refusal": None}
            choices.append({"message": message, **self._rest(choice, events)})
        return self.frame("chat.completion", choices) | {"usage": self.usage}

    def end(self) -> dict[str, Any]:
        """A stream's last piece."""
        return self.frame("chat.completion.chunk", []) | {"usage": self.usage}

    def _rest(self, choice: int, events: Sequence[Event]) -> dict[str, Any]:
        logprobs = None
        if self.question.alternatives is not None:
            told = [event.logprobs for event in events if event.logprobs is not None]
            logprobs = {"content": [self._entry(one) for one in told], "refusal": None}
        return {
            "index": choice,
            "logprobs": logprobs,
            "finish_reason": events[-1].finish,
            "loops": self.count(events),
            **self.details(events),
        }

    def _entry(self, one: TokenLogprobs) -> dict[str, Any]:
        return {
            **self._token(one.token, one.logprob),
            "top_logprobs": [self._token(token, value) for token, value in one.top],
        }

    def _token(self, token: int, value: float) -> dict[str, Any]:
        return {
            "token": self.spellings.text(token),
            "logprob": _sound(value),
            "bytes": self.spellings.raw(token),
        }


def _sound(value: float) -> float:
    """JSON has no infinities."""
    return max(value, LEAST)
