"""Blocks: each is free, owned or idle, and names find exactly what they name."""

import pytest
from hypothesis import given, strategies as st

from open_mythos.engine.blocks import BlockPool, block_name, root_name


def test_names_follow_from_all_tokens_and_the_root() -> None:
    a, b = root_name("one", 3), root_name("one", 4)
    assert a == root_name("one", 3) != b
    assert block_name(a, [1, 2]) == block_name(a, (1, 2))
    texts = [[1, 2], [2, 1], [1], [513]]
    assert len({block_name(b, [1, 2]), *(block_name(a, text) for text in texts)}) == 5
    assert block_name(block_name(a, [1]), [2]) != block_name(block_name(a, [2]), [2])


@given(st.lists(st.tuples(st.sampled_from("tspr"), st.integers(0, 9)), max_size=120))
def test_a_pool_is_what_lists_of_owners_say(moves: list[tuple[str, int]]) -> None:
    pool, names = BlockPool(6), [root_name(i) for i in range(10)]
    owned: list[int] = []  # one entry per owner
    named: dict[int, bytes] = {}
    for move, number in moves:
        if move == "t":
            block = pool.take()
            assert (block is None) == (len(set(owned)) == 6)
            if block is not None:
                assert block not in owned
                named.pop(block, None)
                owned.append(block)
        elif move == "s":
            block = pool.share(names[number])
            assert block == next((b for b, name in named.items() if name == names[number]), None)
            owned += [] if block is None else [block]
        elif move == "p" and owned:
            block = owned[number % len(owned)]
            if block not in named and names[number] not in named.values():
                named[block] = names[number]
            pool.publish(block, names[number])
        elif move == "r" and owned:
            pool.release([owned.pop(number % len(owned))])
        assert pool.used == len(set(owned))
        assert pool.used + pool.available == 6
        assert pool.idle == len(set(named) - set(owned))
        assert all(pool.owners(block) == owned.count(block) for block in range(1, 7))


def test_the_block_used_longest_ago_is_given_up_first_and_ends_before_starts() -> None:
    pool = BlockPool(3)
    text = [pool.take() for _ in range(3)]
    for block in text:
        pool.publish(block, root_name(block))
    pool.release(text)
    assert pool.share(root_name(text[2])) == text[2]  # used again: the last to go
    pool.release([text[2]])
    assert [pool.take() for _ in range(4)] == [text[1], text[0], text[2], None]
    assert pool.evicted == 3


def test_giving_back_what_one_does_not_own_is_an_error() -> None:
    pool = BlockPool(2)
    block = pool.take()
    pool.release([block])
    with pytest.raises(ValueError, match="no owner"):
        pool.release([block])


def test_what_is_disowned_or_forgotten_is_found_no_more() -> None:
    pool = BlockPool(4)
    mine, ours, idle = pool.take(), pool.take(), pool.take()
    for block in (mine, ours, idle):
        pool.publish(block, root_name(block))
    pool.share(root_name(ours))
    pool.release([idle])
    assert pool.disown([mine, ours]) == [mine]
    assert pool.find(root_name(mine)) is pool.find(root_name(ours)) is None
    pool.forget_all()
    assert pool.find(root_name(idle)) is None
    assert pool.available == 2
