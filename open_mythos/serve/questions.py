"""Questions: what the engine is asked, from a body that has the right form."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from open_mythos.data.chat import encode_prompt, end_of_turn
from open_mythos.data.chat_template import Message as ChatMessage
from open_mythos.data.tokenizer import Tokenizer, decode_known
from open_mythos.engine.request import Request
from open_mythos.errors import ConfigError, InputError, MissingExtraError
from open_mythos.generate.constrain import build_guide
from open_mythos.generate.params import Constraint, SamplingParams
from open_mythos.serve.bodies import (
    ChatBody,
    CompletionBody,
    Effort,
    InspectBody,
    Message,
    ResponseFormat,
    Sampled,
)
from open_mythos.serve.refusals import Refusal, invalid
from open_mythos.serve.settings import ServeConfig


T = TypeVar("T")

DEFAULT_TOKENS = 16  # of a completion that does not say how long, as in OpenAI's interface
SHARES: dict[Effort, float] = {"low": 0.25, "medium": 0.5, "high": 1.0}


@dataclass(frozen=True)
class Question:
    """One request of a client.

    Attributes:
        requests: For the engine, one per prompt.
        prompts: The text of each.
        choices: Continuations of each.
        echo: Whether the answer begins with the prompt.
        alternatives: Likeliest tokens to report beside each; None: no log-probabilities.
        stream: Whether the answer comes in pieces.
        usage: Whether a stream ends with what it cost.
        details: Whether each token is told by its id, with its loops.
    """

    requests: tuple[Request, ...]
    prompts: tuple[str, ...]
    choices: int
    echo: bool
    alternatives: int | None
    stream: bool
    usage: bool
    details: bool = False

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts."""
        return sum(len(request.prompt) for request in self.requests)


@dataclass(frozen=True)
class Reader:
    """Bodies to questions, for one model.

    Attributes:
        tokenizer: The model's.
        n_loops: Loops at most, and where nothing is said.
        context: Tokens of prompt and answer at most.
        settings: Bounds.
    """

    tokenizer: Tokenizer
    n_loops: int
    context: int
    settings: ServeConfig

    def completion(self, body: CompletionBody, namespace: str = "") -> Question:
        """A text, or several, to be continued.

        Raises:
            Refusal: If it asks for what there is not.
        """
        if body.best_of is not None and body.best_of != (body.n or 1):
            raise invalid("best_of must be n: every continuation is returned", "best_of")
        if body.suffix:
            raise invalid("suffix is not supported: the model only continues", "suffix")
        if body.response_format is not None and body.echo:
            raise invalid("echo shows the prompt, which has no response_format; drop one", "echo")
        if body.stream and body.echo and body.logprobs is not None and (body.n or 1) > 1:
            raise invalid("a stream with echo and logprobs has one choice; drop n or stream", "n")
        most = DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
        sampling = self._sampling(body, most, body.logprobs)
        prompts = self._prompts(body)
        report = body.logprobs if body.echo else None
        return self._question(body, prompts, sampling, report, namespace, echo=bool(body.echo))

    def chat(self, body: ChatBody, namespace: str = "") -> Question:
        """A conversation to be answered.

        Raises:
            Refusal: If it asks for what there is not, or the tokenizer has no chat template.
        """
        if body.max_tokens is not None and body.max_completion_tokens is not None:
            raise invalid("max_tokens is the older name of max_completion_tokens; give one of them",
                          "max_tokens")  # fmt: skip
        if body.top_logprobs is not None and not body.logprobs:
            raise invalid("top_logprobs needs logprobs: true", "top_logprobs")
        for name in ("tools", "functions"):
            if getattr(body, name):
                raise invalid(f"{name} are not supported: the model calls none", name)
        ids, end = self._conversation(body.messages)
        most = body.max_completion_tokens if body.max_tokens is None else body.max_tokens
        report = (body.top_logprobs or 0) if body.logprobs else None
        sampling = self._sampling(body, most, report, () if end is None else (end,))
        return self._question(body, [(ids, "")], sampling, None, namespace)

    def inspected(self, body: InspectBody) -> tuple[list[int], int]:
        """The tokens that are to be looked into, and how many of them are the prompt.

        Raises:
            Refusal: If there is no text, or more of it than this server looks into.
        """
        if (body.prompt is None) == (body.messages is None):
            raise invalid("give a prompt, or messages: one of the two", "prompt")
        if body.messages is not None:
            prompt, _ = self._conversation(body.messages)
        else:
            given = body.prompt or ""
            prompt = self.tokenizer.encode(given) if isinstance(given, str) else given
            prompt = prompt or self._beginning()
        more = body.continuation or []
        ids = prompt + (self.tokenizer.encode(more) if isinstance(more, str) else more)
        most = min(self.settings.inspect_tokens, self.context)
        if len(ids) > most:
            raise Refusal(
                400, f"the text has {len(ids)} tokens; this server looks into {most}: what it "
                "says of the first ones does not depend on those behind them, so send fewer",
                param="prompt", code="context_length_exceeded",
            )  # fmt: skip
        self.require_loops(body.num_loops)
        return ids, len(prompt)

    def require_loops(self, asked: int | None) -> None:
        """Refuse more loops than there are.

        Raises:
            Refusal: 400.
        """
        if asked is not None and asked > self.n_loops:
            raise invalid(f"num_loops is {asked}; this server runs at most {self.n_loops}",
                          "num_loops")  # fmt: skip

    # -- parts -----------------------------------------------------------------------------------

    def _conversation(self, told: Sequence[Message]) -> tuple[list[int], int | None]:
        """Ids of a conversation up to its answer, and the token that ends one."""
        # Templates know "system"; "developer" is OpenAI's newer name of it.
        messages = [
            {"role": "system" if m.role == "developer" else m.role, "content": m.text} for m in told
        ]
        try:
            ids = encode_prompt(self.tokenizer, cast("list[ChatMessage]", messages))
            return ids, end_of_turn(self.tokenizer)
        except InputError as error:
            raise invalid(str(error), "messages") from error

    def _prompts(self, body: CompletionBody) -> list[tuple[list[int], str]]:
        """Ids and text of each prompt; an empty text starts one."""
        given = body.prompt
        many: list[str | list[int]] = []
        if isinstance(given, str) or isinstance(given[0], int):
            many.append(given)
        else:
            many += given
        if len(many) > self.settings.prompts:
            raise invalid(
                f"{len(many)} prompts; this server takes {self.settings.prompts} at once", "prompt"
            )
        found = []
        for prompt in many:
            if isinstance(prompt, str):
                ids = self.tokenizer.encode(prompt) or self._beginning()
                found.append((ids, prompt))
            else:
                found.append((prompt, decode_known(self.tokenizer, prompt) if body.echo else ""))
        return found

    def _beginning(self) -> list[int]:
        if self.tokenizer.eos_id is None:
            raise invalid("the prompt is empty, and the tokenizer has no end of text to start from",
                          "prompt")  # fmt: skip
        return [self.tokenizer.eos_id]

    def _sampling(
        self, body: Sampled, most: int | None, report: int | None, ends: tuple[int, ...] = ()
    ) -> SamplingParams:
        stop = () if body.stop is None else body.stop
        constraint = self._constraint(body.response_format)
        try:
            return SamplingParams(
                temperature=_or(body.temperature, 1.0),
                top_k=_or(body.top_k, 0),
                top_p=_or(body.top_p, 1.0),
                min_p=_or(body.min_p, 0.0),
                repetition_penalty=_or(body.repetition_penalty, 1.0),
                presence_penalty=_or(body.presence_penalty, 0.0),
                frequency_penalty=_or(body.frequency_penalty, 0.0),
                logit_bias={int(token): value for token, value in (body.logit_bias or {}).items()},
                seed=body.seed,
                n=body.n or 1,
                max_tokens=most,
                min_tokens=body.min_tokens or 0,
                stop=(stop,) if isinstance(stop, str) else tuple(stop),
                stop_token_ids=(*ends, *(body.stop_token_ids or ())),
                ignore_eos=bool(body.ignore_eos),
                logprobs=report,
                constraint=constraint,
            )
        except (InputError, ConfigError) as error:
            raise invalid(str(error)) from error

    def _constraint(self, asked: ResponseFormat | None) -> Constraint | None:
        """The form of the text, with its grammar read: that may take long, and the engine waits."""
        if asked is None or asked.type == "text":
            return None
        found = Constraint("json")
        if asked.type == "json_schema":
            if asked.json_schema is None:
                raise invalid("response_format of type json_schema needs json_schema",
                              "response_format")  # fmt: skip
            source, most = json.dumps(asked.json_schema.schema_), self.settings.schema_bytes
            if len(source) > most:
                raise invalid(f"the schema has {len(source)} bytes; this server reads {most}",
                              "response_format")  # fmt: skip
            found = Constraint("json_schema", source)
        try:
            build_guide(found, self.tokenizer)
        except InputError as error:
            raise invalid(str(error), "response_format") from error
        except MissingExtraError as error:
            raise Refusal(501, str(error), param="response_format", code="not_installed") from error
        return found

    def _question(
        self,
        body: Sampled,
        prompts: list[tuple[list[int], str]],
        sampling: SamplingParams,
        report: int | None,
        namespace: str,
        *,
        echo: bool = False,
    ) -> Question:
        if len(prompts) * sampling.n > self.settings.choices:
            raise invalid(
                f"{len(prompts)} prompts with n = {sampling.n} are more continuations than the "
                f"{self.settings.choices} that this server writes at once", "n",
            )  # fmt: skip
        if body.stream_options is not None and not body.stream:
            raise invalid("stream_options needs stream: true", "stream_options")
        for ids, _ in prompts:
            self._require_room(len(ids), sampling.max_tokens)
        loops = self._loops(body)
        return Question(
            requests=tuple(
                Request(ids, sampling, loops, body.exit, namespace, report) for ids, _ in prompts
            ),
            prompts=tuple(text for _, text in prompts),
            choices=sampling.n,
            echo=echo,
            alternatives=sampling.logprobs,
            stream=bool(body.stream),
            usage=body.stream_options is not None and bool(body.stream_options.include_usage),
            details=bool(body.token_details),
        )

    def _loops(self, body: Sampled) -> int | None:
        """Loops asked for: their number, or an effort's share of the most."""
        if body.reasoning_effort is None:
            self.require_loops(body.num_loops)
            return body.num_loops
        if body.num_loops is not None:
            raise invalid("reasoning_effort is a number of loops; drop it or num_loops",
                          "reasoning_effort")  # fmt: skip
        return math.ceil(self.n_loops * SHARES[body.reasoning_effort])

    def _require_room(self, length: int, most: int | None) -> None:
        least = 1 if most is None else most
        if length + least > self.context:
            new = "at least one" if most is None else str(most)
            raise Refusal(
                400,
                f"the model's context is {self.context} tokens; the prompt has {length} and {new} "
                "new ones were asked for: shorten the prompt, or lower max_tokens",
                code="context_length_exceeded",
            )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
