"""Stop strings against a definition that takes one character at a time and holds nothing back."""

from hypothesis import example, given, strategies as st

from open_mythos.generate.stops import StopText


texts = st.text("abc", max_size=20)
stop_lists = st.lists(st.text("abc", min_size=1, max_size=4), max_size=4)


def by_characters(text: str, stops: list[str]) -> tuple[str, str | None]:
    for end in range(len(text) + 1):
        met = [stop for stop in stops if text[:end].endswith(stop)]
        if met:
            longest = max(met, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(pieces=st.lists(texts, max_size=6), stops=stop_lists)
@example(pieces=["ab", "c"], stops=["abc", "b"])
def test_the_text_ends_as_if_characters_came_one_by_one(
    pieces: list[str], stops: list[str]
) -> None:
    writer = StopText(stops)
    shown = [writer.push(piece) for piece in pieces]
    shown.append(writer.finish())
    assert ("".join(shown), writer.matched) == by_characters("".join(pieces), stops)


@given(pieces=st.lists(texts, max_size=6), stops=stop_lists)
@example(pieces=["b"], stops=["a", "baa"])
def test_what_is_shown_is_never_taken_back_and_never_late(
    pieces: list[str], stops: list[str]
) -> None:
    """At each piece, all comes out but what some way to go on would swallow."""
    writer, shown, given_so_far = StopText(stops), "", ""
    for piece in pieces:
        shown += writer.push(piece)
        given_so_far += piece
        ended = by_characters(given_so_far, stops)
        futures = [given_so_far, *(given_so_far + stop[k:] for stop in stops for k in range(4))]
        swallowed = [by_characters(text, stops)[0] for text in futures]
        assert all(text.startswith(shown) for text in swallowed)
        least = min(map(len, swallowed)) if ended[1] is None else len(ended[0])
        assert len(shown) == min(least, len(given_so_far))


def test_nothing_comes_out_after_the_end() -> None:
    writer = StopText(["x"])
    assert [writer.push("ax"), writer.push("b"), writer.finish()] == ["a", "", ""]
