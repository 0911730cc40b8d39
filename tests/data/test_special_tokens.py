"""Spellings are found, the longest first, and nothing else is touched."""

from hypothesis import given, strategies as st

from open_mythos.data.special_tokens import ROLE_TEMPLATE, ROLES, encode_marked, spelling


NAMES = ["<a>", "<a><b>", "<b>", "++", "x"]
SPECIALS = {name: 1000 + place for place, name in enumerate(NAMES)}


def by_hand(text: str) -> list[int]:
    """The same by reading from left to right."""
    ids: list[int] = []
    while text:
        found = max((n for n in NAMES if text.startswith(n)), key=len, default="")
        ids.append(SPECIALS[found] if found else ord(text[0]))
        text = text[len(found) or 1 :]
    return ids


@given(st.lists(st.sampled_from([*NAMES, "<", "a", ">", "+", "é", "\n"])).map("".join))
def test_a_spelling_is_its_token_and_the_longest_goes_first(text: str) -> None:
    assert encode_marked(text, SPECIALS, lambda piece: [ord(c) for c in piece]) == by_hand(text)


@given(st.text())
def test_without_names_nothing_is_found(text: str) -> None:
    assert spelling([]).search(text) is None
    assert encode_marked(text, {}, lambda piece: [ord(c) for c in piece]) == [ord(c) for c in text]


def test_the_template_knows_the_roles_that_have_tokens() -> None:
    assert all(repr(role) in ROLE_TEMPLATE for role in ROLES)
