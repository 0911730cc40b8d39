"""Special tokens: their names, texts in which they count, and the chat template made of them."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache


END_OF_TEXT = "<|endoftext|>"
ROLES = ("system", "user", "assistant", "tool")
ROLE_TOKENS = tuple(f"<|{role}|>" for role in ROLES)

# Role, content, end of text: with the end of a text as the end of a turn, whatever stops at the
# one stops at the other. The generation tags tell `transformers` where answers lie.
ROLE_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('unknown role ' ~ message['role'] ~ "
    "'; known: system, user, assistant, tool') }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def spelling(names: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds special tokens in a text, the longest where one begins another.

    Its one group is the whole match, so that `split` returns the tokens between the pieces.
    Without names it finds nothing.
    """
    return _spelling(tuple(names))


@lru_cache(maxsize=32)
def _spelling(names: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    # `(?!)` fails everywhere, where an empty alternation would match everywhere.
    return re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")


def encode_marked(
    text: str, specials: Mapping[str, int], encode: Callable[[str], list[int]]
) -> list[int]:
    """Ids of a text in which a special token's spelling is that token; the rest by `encode`."""
    ids: list[int] = []
    # Pieces at even places, tokens at odd ones.
    for place, piece in enumerate(spelling(specials).split(text)):
        if place % 2:
            ids.append(specials[piece])
        elif piece:
            ids.extend(encode(piece))
    return ids
