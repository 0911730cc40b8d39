"""ChatTemplate: a conversation as one text, by the Jinja template that a tokenizer carries."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, cast

from jinja2 import Template, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from open_mythos.data.tokenizer import Tokenizer
from open_mythos.errors import InputError


Message = Mapping[str, Any]


class ChatTokenizer(Tokenizer, Protocol):
    """A tokenizer that can tell special tokens from text, and may carry a chat template."""

    # Whether ids of a text are those of its parts, cut at any special token, and a special token
    # spelt in a plain text is no special token.
    splits_bytes: bool
    chat_template: str | None
    special_tokens: Mapping[str, int]
    special_names: Mapping[str, str]

    def encode_marked(self, text: str) -> list[int]:
        """Ids of a text in which the spellings of special tokens count."""
        ...


@dataclass(frozen=True)
class ChatTemplate:
    """How messages become one text.

    Attributes:
        source: The Jinja text, in the dialect of `transformers`: it sees `messages`,
            `add_generation_prompt`, the names below, `raise_exception`, `strftime_now`, the filter
            `tojson`, and `generation` tags, which change nothing. Tools are none.
        names: Spellings of special tokens by name, such as "eos_token".
        today: What `strftime_now` tells the time by. A fixed day, so that training data is the
            same whenever it is made; a conversation of today replaces it.
    """

    source: str
    names: Mapping[str, str] = field(default_factory=dict)
    today: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The text of a conversation.

        Args:
            messages: Each with a "role" and a "content", in order.
            add_generation_prompt: Whether the text ends where an answer begins.

        Raises:
            InputError: When a message is none, or the template refuses or is broken.
        """
        for place, message in enumerate(messages, 1):
            _require_message(place, message)
        try:
            return compiled(self.source).render(
                **self.names,
                messages=messages,
                tools=None,  # templates ask whether it is none
                documents=None,
                add_generation_prompt=add_generation_prompt,
                strftime_now=self.today.strftime,
            )
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            raise InputError(f"the chat template cannot render these messages: {error}") from error


def chat_template(tokenizer: Tokenizer) -> ChatTemplate:
    """The template that a tokenizer carries.

    Raises:
        InputError: When it carries none, with the ways to one.
    """
    source = getattr(tokenizer, "chat_template", None)
    if not source:
        raise InputError(
            "this tokenizer has no chat template; set tokenizer.chat_template (in a recipe: "
            "data.chat_template=FILE.jinja), or use 'byte', 'o200k_harmony' or one made by "
            "`open-mythos tokenizer train`, which have one"
        )
    return ChatTemplate(source, getattr(tokenizer, "special_names", {}))


def use_template(tokenizer: Tokenizer, path: str | Path) -> None:
    """Give a tokenizer the chat template of a file, which is then saved with it.

    Raises:
        InputError: When the file is not there, or holds no Jinja.
    """
    try:
        source = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read a chat template from {str(path)!r}: {error}") from error
    compiled(source)
    cast("ChatTokenizer", tokenizer).chat_template = source


@lru_cache(maxsize=32)
def compiled(source: str) -> Template:
    """A Jinja text made ready, in a sandbox: templates come from strangers.

    Raises:
        InputError: When it is no Jinja.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise InputError(f"line {error.lineno} of the chat template: {error.message}") from error


class GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}`, by which templates mark answers: what is inside."""

    tags = {"generation"}  # noqa: RUF012 -- Jinja's own way

    def parse(self, parser: Parser) -> list[Node]:
        """The nodes between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _require_message(place: int, message: Any) -> None:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InputError(
            f"message {place} is {str(message)[:80]!r}; a message is "
            '{"role": "user", "content": "..."}'
        )
    if not isinstance(message.get("content"), (str, list, type(None))):
        raise InputError(
            f"the content of message {place} is {str(message['content'])[:80]!r}; it must be text"
        )


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    # Jinja's own escapes <, > and & for web pages, which a model should not learn.
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _refuse(message: str) -> None:
    raise TemplateError(message)
