"""Conversations as tokens: exactly what a chat shows a model, and which tokens are its answers."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from open_mythos.data.chat_template import ChatTemplate, ChatTokenizer, Message, chat_template
from open_mythos.data.special_tokens import encode_marked, spelling
from open_mythos.data.tokenizer import Tokenizer
from open_mythos.errors import InputError


ANSWERER = "assistant"
# Characters for private use: one that the conversation does not contain marks what stands for a
# special token spelt in a message.
PRIVATE = range(0xF0000, 0xFFFFE)


@dataclass(frozen=True, eq=False)
class Dialogue:
    """One conversation, ready to be learnt from.

    Attributes:
        ids: (N,) uint32 token ids.
        scored: (N,) bool; True on the tokens of answers, ends of turns included, role headers not.
    """

    ids: npt.NDArray[np.uint32]
    scored: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Reading:
    """A conversation whose messages cannot spell a special token, and how to undo that.

    Attributes:
        messages: With stand-ins where a message spells a special token.
        restore: A text with stand-ins -> the text that was meant.
    """

    messages: Sequence[Message]
    restore: Callable[[str], str]


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of a conversation, up to where the model's answer begins.

    Raises:
        InputError: When there is no chat template, or it refuses the messages.
    """
    template, chats = chat_template(tokenizer), cast("ChatTokenizer", tokenizer)
    reading = shielded(chats, messages)
    return _encode(chats, template.render(reading.messages, True), reading)


def end_of_turn(tokenizer: Tokenizer) -> int | None:
    """Id of the special token that ends an answer, at which generation stops; None without one.

    Raises:
        InputError: When there is no chat template, or it cannot render a question and an answer.
    """
    template, chats = chat_template(tokenizer), cast("ChatTokenizer", tokenizer)
    answer = "an answer"
    text = template.render(
        [{"role": "user", "content": "a question"}, {"role": ANSWERER, "content": answer}]
    )
    rest = text[text.rindex(answer) + len(answer) :] if answer in text else ""
    found = spelling(chats.special_tokens).search(rest)
    return None if found is None else chats.special_tokens[found[0]]


def dialogue(tokenizer: Tokenizer, messages: Sequence[Message]) -> Dialogue:
    """The tokens of a whole conversation, and which of them are the model's.

    Every answer is cut out where the text with it begins to differ from the text that asks for it,
    and ends with the last special token before the next message. So a template has to keep what it
    said: what it makes of the messages before an answer must be how the whole begins.

    Raises:
        InputError: When there is no chat template, it refuses the messages, or it says something
            else about earlier messages once later ones are there; or when an answer begins or ends
            inside a token.
    """
    template, chats = chat_template(tokenizer), cast("ChatTokenizer", tokenizer)
    reading = shielded(chats, messages)
    whole = template.render(reading.messages)
    cuts = [
        cut
        for place, message in enumerate(messages)
        if message["role"] == ANSWERER
        for cut in _answer(template, reading.messages, place, whole, chats)
    ]
    bounds = [0, *cuts, len(whole)]
    pieces = [whole[a:b] for a, b in pairwise(bounds)]
    parts = _parts(chats, pieces, reading)
    flags = [place % 2 == 1 for place in range(len(parts))]
    scored = np.repeat(np.asarray(flags, dtype=np.bool_), [len(part) for part in parts])
    return Dialogue(np.asarray([i for part in parts for i in part], dtype=np.uint32), scored)


def shielded(tokenizer: ChatTokenizer, messages: Sequence[Message]) -> Reading:
    """The messages, with what they spell of special tokens replaced: no message forges a role.

    Left as they are for tokenizers that take every spelling for the token, as `transformers` does.
    """
    pattern = spelling(tokenizer.special_tokens)
    if not tokenizer.splits_bytes or not any(_find(pattern, m) for m in messages):
        return Reading(messages, lambda text: text)
    mark = next(chr(c) for c in PRIVATE if not any(_find(re.compile(chr(c)), m) for m in messages))
    names = list(tokenizer.special_tokens)

    def hide(found: re.Match[str]) -> str:
        return f"{mark}{names.index(found[0])}{mark}"

    def restore(text: str) -> str:
        return re.sub(f"{mark}([0-9]+){mark}", lambda found: names[int(found[1])], text)

    hidden = [cast("Message", _replace(pattern, hide, message)) for message in messages]
    return Reading(hidden, restore)


def _answer(
    template: ChatTemplate,
    messages: Sequence[Message],
    place: int,
    whole: str,
    tokenizer: ChatTokenizer,
) -> tuple[int, int]:
    """Where the answer at this place begins and ends in the whole text."""
    asked = template.render(messages[:place], True)
    told = template.render(messages[: place + 1])
    if not (told.startswith(asked) and whole.startswith(told)):
        what = "the question before it" if whole.startswith(told) else "messages after it"
        raise InputError(
            f"message {place + 1}: the chat template writes this answer otherwise than {what} "
            "would have it, so that what is learnt is not what a chat shows; use a template that "
            "keeps what it wrote (data.chat_template=FILE.jinja), or split the conversation"
        )
    ends = [found.end() for found in spelling(tokenizer.special_tokens).finditer(told, len(asked))]
    return len(asked), ends[-1] if ends else len(told)


def _parts(tokenizer: ChatTokenizer, pieces: list[str], reading: Reading) -> list[list[int]]:
    """Ids of each piece, which together are ids of the whole."""
    if tokenizer.splits_bytes:
        return [_encode(tokenizer, piece, reading) for piece in pieces]
    whole = tokenizer.encode_marked("".join(pieces))
    ends = []
    for place, text in enumerate(accumulate(pieces), 1):
        begin = tokenizer.encode_marked(text)
        if whole[: len(begin)] != begin:
            where = "begins" if place % 2 else "ends"
            raise InputError(
                f"answer {(place + 1) // 2} {where} inside a token (after "
                f"{text[-20:]!r}), so that its first token would be another one in a chat; "
                "strip blanks around it, or use a template whose roles end in a special token"
            )
        ends.append(len(begin))
    return [whole[a:b] for a, b in pairwise([0, *ends])]


def _encode(tokenizer: ChatTokenizer, text: str, reading: Reading) -> list[int]:
    if not tokenizer.splits_bytes:
        return tokenizer.encode_marked(text)
    return encode_marked(
        text, tokenizer.special_tokens, lambda piece: tokenizer.encode(reading.restore(piece))
    )


def _find(pattern: re.Pattern[str], value: Any) -> bool:
    """Whether a text in a message, however deep, matches; the role is the template's business."""
    if isinstance(value, str):
        return pattern.search(value) is not None
    if isinstance(value, Mapping):
        return any(_find(pattern, inner) for key, inner in value.items() if key != "role")
    return isinstance(value, list) and any(_find(pattern, inner) for inner in value)


def _replace(pattern: re.Pattern[str], by: Callable[[re.Match[str]], str], value: Any) -> Any:
    if isinstance(value, str):
        return pattern.sub(by, value)
    if isinstance(value, Mapping):
        return {k: v if k == "role" else _replace(pattern, by, v) for k, v in value.items()}
    return [_replace(pattern, by, inner) for inner in value] if isinstance(value, list) else value
