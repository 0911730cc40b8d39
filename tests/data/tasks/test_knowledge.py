"""Compositions of facts against looking each fact up where it was asked alone."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st

from open_mythos.data.batch import IGNORE, Batch
from open_mythos.data.tasks.knowledge import KnowledgeHops, facts
from open_mythos.errors import InputError


def questions(task: KnowledgeHops, batch: Batch, hops: int) -> dict[tuple[int, ...], int]:
    """Every question of a batch, entity and relations, with its answer."""
    found = {}
    for row, wanted in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
        for start in range(0, len(row), hops + 1):
            asked = row[start : start + hops + 1]
            assert wanted[start : start + hops] == [IGNORE] * hops
            found[tuple(asked)] = wanted[start + hops]
    return found


@settings(max_examples=15, deadline=None)
@given(world=st.integers(0, 2**40), hops=st.integers(2, 7), seed=st.integers(0, 2**40))
def test_longer_questions_chain_the_facts(world: int, hops: int, seed: int) -> None:
    task = KnowledgeHops(
        entities=12, relations=3, world=world, queries=20, batch_size=20, seed=seed
    )
    # 1200 questions of 36 facts leave one out once in 10^13 draws.
    known = questions(task, replace(task, batch_size=60).batch(0, level=1), 1)
    assert len(known) == 36
    for asked, answer in questions(task, task.evaluation_batch(hops, seed), hops).items():
        entity, *relations = asked
        for relation in relations:
            assert 12 <= relation < 15
            entity = known[entity, relation]
        assert answer == entity


def test_a_world_is_of_permutations_and_no_two_worlds_are_one() -> None:
    here = facts(0, 200, 10)
    assert here.shape == (10, 200)
    assert all(sorted(row) == list(range(200)) for row in here.tolist())
    assert len({tuple(row) for row in here.tolist()}) == 10
    assert (facts(1, 200, 10) != here).any()


def test_a_room_holds_as_many_questions_as_fit() -> None:
    task = KnowledgeHops(entities=12, relations=3, batch_size=20, room=11)
    for hops, fit in ((1, 5), (2, 3), (5, 1), (12, 1)):
        batch = task.evaluation_batch(hops)
        assert batch.ids.shape == (20, max(11, hops + 1))
        assert batch.scored == 20 * fit
        alone = replace(task, room=0, queries=fit).evaluation_batch(hops)
        width = fit * (hops + 1)
        assert torch.equal(batch.ids[:, :width], alone.ids)
        assert torch.equal(batch.targets[:, :width], alone.targets)


def test_all_facts_are_trained_and_no_held_out_composition_is() -> None:
    # 1280 questions of two relations: 5000 drawn in training would hold nearly every one of them.
    task = KnowledgeHops(entities=20, relations=8, queries=8, batch_size=50, max_level=2)
    trained: dict[int, set[tuple[int, ...]]] = {1: set(), 2: set()}
    for step in range(40):
        batch = task.batch(step)
        trained[batch.level] |= questions(task, batch, batch.level).keys()
    asked = questions(task, task.evaluation_batch(2), 2).keys()
    assert len(trained[1]) == 160
    assert len(trained[2]) > 0.7 * 1280
    assert len(asked) > 0.15 * 1280
    assert not trained[2] & asked


def test_relations_held_out_are_held_out_with_every_entity() -> None:
    task = KnowledgeHops(
        entities=6, relations=8, held_out="relations", queries=8, batch_size=50, max_level=2
    )
    chains: set[tuple[int, ...]] = set()
    for step in range(20):
        if (batch := task.batch(step)).level == 2:
            chains |= {asked[1:] for asked in questions(task, batch, 2)}
    asked = {question[1:] for question in questions(task, task.evaluation_batch(2), 2)}
    assert not chains & asked
    assert len(chains) + len(asked) == 64


def test_too_few_relations_to_hold_any_out_are_refused() -> None:
    with pytest.raises(InputError, match=r"relations is 4; .* at least 8"):
        KnowledgeHops(relations=4, held_out="relations")
