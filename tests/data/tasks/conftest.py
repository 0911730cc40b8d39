"""Tasks of every kind, small enough for their instances to come up again and again."""

from typing import Any

import pytest

from open_mythos.data.tasks.addition import Addition
from open_mythos.data.tasks.dyck import DyckNesting
from open_mythos.data.tasks.induction import InductionHops
from open_mythos.data.tasks.knowledge import KnowledgeHops
from open_mythos.data.tasks.maze import MazePath
from open_mythos.data.tasks.pointer import PointerChase
from open_mythos.data.tasks.prefix import PrefixParity, PrefixProduct, PrefixSum
from open_mythos.data.tasks.task import GeneratedTask
from open_mythos.data.tasks.variables import VariableChain


SMALL: dict[str, tuple[type[GeneratedTask], dict[str, Any]]] = {
    "pointer": (PointerChase, {"states": 8, "queries": 4, "maps": "cycle", "split": True}),
    "pointer told": (PointerChase, {"states": 5, "layout": "joint", "split": True, "told": True}),
    "pointer in chains": (
        PointerChase,
        {"states": 7, "layout": "joint", "max_hops": 3, "chain": 10, "spare": 2},
    ),
    "p-hop": (InductionHops, {"symbols": 3, "length": 13, "max_level": 3}),
    "p-hop told": (InductionHops, {"symbols": 4, "length": 9, "max_level": 2, "told": True}),
    "p-hop on a ring": (InductionHops, {"symbols": 3, "length": 14, "max_level": 2, "ring": 4}),
    "parity": (PrefixParity, {"length": 12, "split": True}),
    "parity in a room": (
        PrefixParity,
        {"length": 3, "start": True, "room": 17, "loops_per_level": 1, "spare": 1},
    ),
    "sums": (PrefixSum, {"modulus": 8, "max_level": 4}),
    "words": (PrefixProduct, {"group": "s4", "max_level": 3}),
    "sums in a room": (PrefixSum, {"modulus": 6, "max_level": 4, "room": 13}),
    "words in a room": (PrefixProduct, {"group": "s3", "max_level": 3, "room": 9}),
    "addition": (Addition, {"max_level": 2}),
    "addition of many": (Addition, {"dial": "operands", "digits": 1, "max_level": 5}),
    "variables": (VariableChain, {"variables": 6, "values": 4, "queries": 4, "max_level": 5}),
    "variables shuffled": (
        VariableChain,
        {"variables": 7, "layout": "joint", "order": "shuffled", "queries": 3},
    ),
    "variables of roots": (
        VariableChain,
        {"variables": 8, "values": 5, "roots": 3, "queries": 6, "max_level": 4},
    ),
    "knowledge": (KnowledgeHops, {"entities": 20, "relations": 4, "queries": 3, "max_level": 3}),
    "knowledge by relations": (
        KnowledgeHops,
        {"entities": 9, "relations": 8, "held_out": "relations", "queries": 3, "max_level": 2},
    ),
    "knowledge in a room": (
        KnowledgeHops,
        {"entities": 40, "relations": 5, "max_level": 2, "room": 10, "loops_per_level": 2},
    ),
    "dyck": (DyckNesting, {"kinds": 2, "length": 24, "max_level": 2}),
    "maze": (MazePath, {"side": 4, "queries": 3, "max_level": 4}),
    "maze steps": (MazePath, {"side": 4, "queries": 3, "max_level": 4, "ask": "step"}),
}


@pytest.fixture(params=SMALL)
def small(request: pytest.FixtureRequest) -> Any:
    """A function that makes one kind of task with other settings of its own."""
    kind, settings = SMALL[request.param]

    def build(**changes: Any) -> GeneratedTask:
        return kind(**{"batch_size": 16, **settings, **changes})

    return build
