"""What the scheduler knows of requests and their positions in the network: numbers only."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from open_mythos.engine.blocks import block_name


if TYPE_CHECKING:
    from open_mythos.nn.loop.exiting import Leave


@dataclass
class Flight:
    """Neighbouring positions of one request on their way through the network together.

    Attributes:
        first: The first position.
        lanes: Where each position's state is kept.
        entered: Whether they have been through the prelude.
        loops: Loops that those still going have done.
        left: By position, loops after which it left; 0 while it is going.
    """

    first: int
    lanes: list[int]
    entered: bool = False
    loops: int = 0
    left: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left = self.left or [0] * len(self.lanes)

    @property
    def end(self) -> int:
        """The position behind the last."""
        return self.first + len(self.lanes)

    @property
    def landed(self) -> bool:
        """Whether every position has left the loop."""
        return all(self.left)


@dataclass
class Track:
    """One request as the scheduler sees it.

    Attributes:
        id: Its number; also its place in the order of arrival.
        tokens: What is known: the prompt, and what was added.
        n_loops: Loops of every position at most.
        root: Name of the empty text; None: nothing is shared.
        leave: How its positions leave early; only handed on to whoever runs them.
        whole: Whether every position must be computed, whatever is cached.
        row: Its place among those that run; -1 while it waits.
        blocks: Blocks of its first positions, in order.
        cached: Positions that have been through the whole network.
        reused: Of these, those that somebody else had read; since it was last admitted.
        flight: Positions under way.
        held: Whether it must not go on for now.
        names: Of its full blocks.
        seat: Its stay on the device, where its positions follow one another without a flight;
            None: it has none.
    """

    id: int
    tokens: list[int]
    n_loops: int
    root: bytes | None
    leave: "Leave | None" = None
    whole: bool = False
    row: int = -1
    blocks: list[int] = field(default_factory=list)
    cached: int = 0
    reused: int = 0
    flight: Flight | None = None
    held: bool = False
    names: list[bytes] = field(default_factory=list)
    seat: object | None = None

    def name(self, index: int, size: int) -> bytes:
        """The name of full block `index` of `size` positions."""
        assert self.root is not None
        while len(self.names) <= index:
            at = len(self.names)
            before = self.names[-1] if self.names else self.root
            self.names.append(block_name(before, self.tokens[at * size : (at + 1) * size]))
        return self.names[index]

    def missing(self, size: int) -> int:
        """Blocks that it lacks for its tokens and one more."""
        return len(self.tokens) // size + 1 - len(self.blocks)


@dataclass(slots=True)
class Run:
    """Positions of one request in one call.

    Attributes:
        track: Whose.
        first: The first position of its flight.
        lanes: Lanes of those that take part.
        positions: Their positions.
        loop: Loops done.
    """

    track: Track
    first: int
    lanes: Sequence[int]
    positions: Sequence[int]
    loop: int

    @property
    def speaks(self) -> bool:
        """Whether a token is to follow: it ends with the last that is known."""
        return self.positions[-1] + 1 == len(self.track.tokens)
