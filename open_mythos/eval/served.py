"""lm-eval asks a server: its client of completions, with our tokenizers and numbers of loops."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from open_mythos.data.tokenizer import Tokenizer
from open_mythos.errors import InputError, MissingExtraError
from open_mythos.eval.likelihood import first_id, rolling


try:
    import requests
    import tenacity  # noqa: F401 -- the client's, which finds its own absence only when it is used
    from lm_eval.models.openai_completions import LocalCompletionsAPI
except ImportError as error:  # the harness is an extra
    raise MissingExtraError("lm-eval", "eval", "scoring a server by lm-eval") from error

ROWS = 8  # prompts of one request


class ServedLM(LocalCompletionsAPI):  # type: ignore[misc]
    """A model behind `open-mythos serve` for the harness, at one number of loops.

    It asks as lm-eval's "local-completions" does, but in ids of our own tokenizer, with num_loops
    and exit in every request, and without a new token where a prompt is only scored: a prompt may
    then fill the model's context.

    Attributes:
        words: The model's tokenizer.
        extra: Fields of ours that every request has.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        words: Tokenizer,
        context: int,
        *,
        loops: int | None = None,
        exit: str | None = None,
    ) -> None:
        """Take a server's completions.

        Args:
            base_url: Of the server, with or without /v1. OPENAI_API_KEY is its key, if any.
            model: What the server calls it.
            words: Its tokenizer.
            context: Tokens of prompt and answer together, at most.
            loops: Loops; None is the server's own number.
            exit: An exit by its name.
        """
        super().__init__(
            base_url=f"{root_of(base_url)}/v1/completions",
            model=model,
            tokenizer_backend="None",
            batch_size=ROWS,
            max_length=context + 1,  # the client keeps one for a new token
            max_retries=1,
        )
        self.tokenizer, self.tokenized_requests = words, True
        self.words = words
        self.extra = {k: v for k, v in {"num_loops": loops, "exit": exit}.items() if v is not None}

    @cached_property
    def eot_token_id(self) -> int:
        """The end of a text, with which one begins."""
        return first_id(self.words)

    @cached_property
    def prefix_token_id(self) -> int:
        """What stands before a text without context."""
        return first_id(self.words)

    @cached_property
    def eos_string(self) -> None:
        """No word ends an answer but those of the task: the server knows the end's id."""
        return

    @property
    def tokenizer_name(self) -> str:
        """What the harness keeps requests apart by."""
        return f"{type(self.words).__name__}-{self.words.vocab_size}"

    def tok_encode(self, string: Any, *_: Any, **__: Any) -> Any:
        """Ids of a text, or of several, with nothing added."""
        if isinstance(string, str):
            return self.words.encode(string)
        return [self.words.encode(one) for one in string]

    def _create_payload(
        self, messages: Any, generate: bool = False, gen_kwargs: Any = None, **how: Any
    ) -> dict[str, Any]:
        asked = super()._create_payload(messages, generate, gen_kwargs, **how)
        scored = {} if generate else {"max_tokens": 0}
        return {**asked, **scored, **self.extra}

    @staticmethod
    def parse_logprobs(
        outputs: Any, tokens: Any = None, ctxlens: Sequence[int] | None = None, **_: Any
    ) -> list[tuple[float, bool]]:
        """Log-probability of what follows each context, and whether greedy decoding says it."""
        del tokens
        answers = outputs if isinstance(outputs, list) else [outputs]
        choices = chain.from_iterable(
            sorted(answer["choices"], key=lambda one: int(one["index"])) for answer in answers
        )
        found = zip(choices, ctxlens or (), strict=True)
        return [_follows(choice["logprobs"], start) for choice, start in found]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
        """Log-likelihood of whole texts, every token asked once, in windows of the context."""
        del disable_tqdm
        texts = [self.words.encode(request.args[0]) for request in requests]
        # The last token of a window is sent along with what it is scored by.
        windows = [list(rolling(ids, self.eot_token_id, self.max_length - 1)) for ids in texts]
        pairs = [(None, *pair) for pair in chain.from_iterable(windows)]
        found = iter(self._loglikelihood_tokens(pairs))
        return [sum(next(found)[0] for _ in pairs) for pairs in windows]


def served_name(address: str) -> str:
    """What a server calls its model.

    Raises:
        InputError: If nobody answers there, or not as a server of models does.
    """
    url = f"{root_of(address)}/v1/models"
    try:
        found = requests.get(url, headers=_bearer(), timeout=30)
        return str(found.json()["data"][0]["id"])
    except (requests.RequestException, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{url} does not list a model ({error}); start `open-mythos serve` there, and set "
            "OPENAI_API_KEY if it wants a key"
        ) from None


def root_of(address: str) -> str:
    """A server's address, without what may stand behind it."""
    return address.rstrip("/").removesuffix("/completions").removesuffix("/v1")


def _bearer() -> dict[str, str]:
    key = os.environ.get("OPENAI_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _follows(told: Mapping[str, Any], start: int) -> tuple[float, bool]:
    values, best = told["token_logprobs"][start:], told["top_logprobs"][start:]
    greedy = all(one == max(top.values()) for one, top in zip(values, best, strict=True))
    return float(sum(values)), greedy
