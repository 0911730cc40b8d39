"""A completion is what its events add up to."""

import pytest

from open_mythos.engine.request import Completion, Event


def test_events_add_up() -> None:
    events = [
        Event(3, 0, 7, "a", loops=2),
        Event(3, 0, 9, "", loops=4),
        Event(3, 0, None, "bc", finish="cancelled"),
    ]
    assert Completion.of(events) == Completion((7, 9), "abc", (2, 4), "cancelled")


@pytest.mark.parametrize("events", [[], [Event(0, 0, 1)]])
def test_what_goes_on_is_no_completion(events: list[Event]) -> None:
    with pytest.raises(ValueError, match="not ended"):
        Completion.of(events)
