"""Flights, tracks and runs: what follows from their numbers."""

from open_mythos.engine.blocks import block_name, root_name
from open_mythos.engine.flight import Flight, Run, Track


def test_a_flight_has_landed_when_its_last_position_has_left() -> None:
    flight = Flight(5, [3, 9])
    assert flight.end == 7
    flight.left[1] = 2
    assert not flight.landed
    flight.left[0] = 4
    assert flight.landed


def test_names_of_blocks_are_a_chain_from_the_root() -> None:
    root = root_name()
    track = Track(0, [1, 2, 3, 4, 5], 2, root)
    first = block_name(root, [1, 2])
    assert track.name(1, 2) == block_name(first, [3, 4])
    assert track.names == [first, block_name(first, [3, 4])]


def test_a_track_lacks_the_blocks_of_its_tokens_and_one_more() -> None:
    track = Track(0, [1] * 8, 2, None)
    assert track.missing(4) == 3
    track.blocks = [7, 8]
    assert track.missing(4) == 1


def test_a_token_follows_the_last_that_is_known() -> None:
    track = Track(0, [1] * 4, 3, None)
    assert Run(track, 0, [0, 1], [2, 3], 0).speaks
    assert not Run(track, 0, [0, 1], [1, 2], 0).speaks
