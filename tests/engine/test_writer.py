"""Writers: text and ends against the whole text cut at the stop."""

from hypothesis import given, strategies as st

from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.engine.request import Event, Request
from open_mythos.engine.writer import Writer
from open_mythos.generate.params import SamplingParams
from open_mythos.generate.text import Writer as TextWriter


BYTES = ByteTokenizer()
LETTERS = "ab\u00e9"


def writer(most: int, *, told: int | None = None, **sampling: object) -> Writer:
    params = SamplingParams.from_dict({"max_tokens": most, **sampling})
    asked = Request([1, 2, 3], params, prompt_logprobs=told)
    return Writer(
        0, 1, asked, 5, most, params.ends(BYTES.eos_id), TextWriter(BYTES, params, [1, 2, 3])
    )


def written(of: Writer, tokens: list[int]) -> tuple[str, list[Event]]:
    events: list[Event] = []
    for token in tokens:
        events.append(of.write(token, 3, None))
        if events[-1].finish is not None:
            break
    return "".join(event.text for event in events), events


@given(st.text(LETTERS, min_size=1, max_size=12), st.text(LETTERS, min_size=1, max_size=3))
def test_text_ends_before_a_stop_string_and_nothing_of_it_is_shown(text: str, stop: str) -> None:
    tokens = BYTES.encode(text)
    shown, events = written(writer(len(tokens) + 1, stop=(stop,)), tokens)
    cut = text.find(stop)
    if cut >= 0:
        assert shown == text[:cut]
        assert (events[-1].finish, events[-1].matched) == ("stop", stop)
    else:
        assert events[-1].finish is None
        assert text.startswith(shown)
        assert len(text) - len(shown) <= len(stop)


@given(st.text(LETTERS, min_size=1, max_size=9), st.integers(1, 20))
def test_at_its_length_everything_held_back_is_shown(text: str, most: int) -> None:
    tokens = BYTES.encode(text)[:most]
    shown, events = written(writer(len(tokens), stop=("aaaaaaaaaaaaaaa",)), tokens)
    assert events[-1].finish == "length"
    assert shown == BYTES.decode(tokens)


def test_an_end_ends_it_unless_it_is_too_early_and_is_not_shown() -> None:
    eos = BYTES.eos_id
    assert eos is not None
    _, events = written(writer(9, min_tokens=2), [eos, 98, eos, 98])
    assert [event.finish for event in events] == [None, None, "stop"]
    shown, events = written(writer(9, stop_token_ids=(97,)), [98, 97])
    assert (shown, events[-1].finish) == ("b", "stop")
    _, events = written(writer(3, ignore_eos=True), [eos, eos, 98])
    assert [event.finish for event in events] == [None, None, "length"]


def test_a_row_names_seed_continuation_and_position() -> None:
    one = writer(5)
    one.write(97, 1, None)
    assert (one.row.key.seed, one.row.key.index, one.row.key.position) == (5, 1, 1)
    assert list(one.row.prompt) == [1, 2, 3]
    assert one.row.ends == (BYTES.eos_id,)


def test_what_was_thought_of_the_prompt_comes_with_the_first_event() -> None:
    one = writer(5, told=0)
    one.prompt = {2: None, 1: None}
    events = [one.write(97, 1, None), one.write(97, 1, None)]
    assert [event.prompt for event in events] == [(None, None, None), ()]
    other = writer(5, told=0)
    other.prompt = {1: None}
    assert other.end("length").prompt == (None, None, None)


def test_an_end_from_outside_shows_what_was_held_back() -> None:
    one = writer(9, stop=("abab",))
    shown, _ = written(one, BYTES.encode("xab"))
    event = one.end("cancelled")
    assert (shown, event.text, event.token, event.finish) == ("x", "ab", None, "cancelled")
