"""ChatRows: conversations packed into rows of one length, with the loss on answers alone."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from open_mythos.data.batch import IGNORE, Batch
from open_mythos.data.chat import Dialogue, dialogue
from open_mythos.data.conversations import Conversation
from open_mythos.data.order import shuffled
from open_mythos.data.streams import Purpose, require_level, require_rows, require_whole
from open_mythos.data.tokenizer import Tokenizer
from open_mythos.errors import InputError


Overlong = Literal["cut", "refuse"]


@dataclass(frozen=True, eq=False)
class ChatRows:
    """Packed conversations as an endless, stateless source of batches; build it by `from_...`.

    A conversation of n tokens takes n - 1 positions: its last token is a target and no input, so
    that nothing is ever predicted across a border. Each row holds whole conversations.

    Attributes:
        dialogues: What is learnt, none longer than a row.
        rows: For every row the numbers of the dialogues in it.
        seq_len: Positions in a row.
        batch_size: Rows in a batch.
        seed: Fixes the order of the rows in every epoch.
        vocab_size: Upper bound of the ids.
        document_mask: Whether batches say which conversation each position belongs to.
        cut: Conversations that were longer than a row and lost their end.
        dropped: Conversations that lost all their answers with it.
    """

    dialogues: Sequence[Dialogue]
    rows: Sequence[Sequence[int]]
    seq_len: int
    batch_size: int
    seed: int
    vocab_size: int
    document_mask: bool = False
    cut: int = 0
    dropped: int = 0

    @classmethod
    def from_conversations(
        cls,
        conversations: Iterable[Conversation],
        tokenizer: Tokenizer,
        *,
        seq_len: int,
        batch_size: int,
        seed: int = 0,
        overlong: Overlong = "cut",
        document_mask: bool = False,
    ) -> "ChatRows":
        """Encode conversations by the tokenizer's chat template, and pack them.

        Args:
            conversations: Each with an answer in it at least.
            tokenizer: With a chat template.
            seq_len: Positions in a row.
            batch_size: Rows in a batch.
            seed: Of the order.
            overlong: What happens to a conversation that no row can hold: "cut" off its end (and
                count it), or "refuse" it.
            document_mask: Whether batches say which conversation each position belongs to.

        Raises:
            InputError: When a conversation has no answer, cannot be rendered, or is refused for
                its length, naming file and line; or when nothing is left.
        """
        for name, value in (("seq_len", seq_len), ("batch_size", batch_size)):
            require_whole(name, value)
        require_whole("seed", seed, least=0)
        if overlong not in ("cut", "refuse"):
            raise InputError(f"overlong is {overlong!r}; it must be 'cut' or 'refuse'")
        kept: list[Dialogue] = []
        cut = dropped = 0
        for conversation in conversations:
            whole = _encoded(tokenizer, conversation)
            fits = fitted(whole, seq_len)
            if fits is not whole:
                if overlong == "refuse":
                    raise InputError(
                        f"{conversation.where}: {whole.ids.size} tokens are more than the "
                        f"{seq_len + 1} of a row; raise data.seq_len or set data.overlong=cut"
                    )
                cut += 1
            if fits.scored[1:].any():
                kept.append(fits)
            else:
                dropped += 1
        if not kept:
            raise InputError(f"no conversation is left of which seq_len {seq_len} shows an answer")
        rows = pack([found.ids.size - 1 for found in kept], seq_len)
        return cls(
            dialogues=kept,
            rows=rows,
            seq_len=seq_len,
            batch_size=batch_size,
            seed=seed,
            vocab_size=tokenizer.vocab_size,
            document_mask=document_mask,
            cut=cut,
            dropped=dropped,
        )

    @property
    def max_level(self) -> int:
        """Always 0: chats have no curriculum."""
        return 0

    @property
    def real_share(self) -> float:
        """Share of all positions that hold a token of a conversation."""
        return sum(d.ids.size - 1 for d in self.dialogues) / (len(self.rows) * self.seq_len)

    @property
    def scored_share(self) -> float:
        """Share of all positions that carry a target."""
        scored = sum(int(d.scored[1:].sum()) for d in self.dialogues)
        return scored / (len(self.rows) * self.seq_len)

    def summary(self) -> str:
        """One line for people: how much there is, how full the rows are, and what was lost."""
        return (
            f"{len(self.dialogues)} conversations in {len(self.rows)} rows of {self.seq_len}: "
            f"{self.real_share:.1%} real tokens, {self.scored_share:.1%} scored; "
            f"{self.cut} cut, {self.dropped} of them without an answer then"
        )

    def batch(self, step: int, level: int = 0, rows: Sequence[int] | None = None) -> Batch:
        """Samples step * batch_size and on, (batch_size, seq_len), or some rows of that batch.

        Raises:
            InputError: When step is negative, level is not 0, or there is no such row.
        """
        require_whole("step", step, least=0)
        require_level(level, self.max_level)
        chosen = require_rows(rows, self.batch_size)
        return self.samples([step * self.batch_size + row for row in chosen])

    def samples(self, numbers: Sequence[int]) -> Batch:
        """Samples of the endless training sequence by their numbers, a row each.

        They go through the packed rows in epochs, each in an order of its own.
        """
        epochs, within = np.divmod(np.asarray(numbers, dtype=np.int64), len(self.rows))
        places = np.empty_like(within)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            places[here] = shuffled(within[here], len(self.rows), self.seed, Purpose.ORDER, epoch)
        return self._filled([self.rows[place] for place in places.tolist()])

    def evaluation_batches(self) -> Iterator[Batch]:
        """All rows once, in order; the last batch may have fewer than batch_size."""
        for first in range(0, len(self.rows), self.batch_size):
            yield self._filled(self.rows[first : first + self.batch_size])

    def _filled(self, rows: Sequence[Sequence[int]]) -> Batch:
        ids = np.zeros((len(rows), self.seq_len), dtype=np.int64)
        targets = np.full_like(ids, IGNORE)
        documents = np.zeros_like(ids)
        for row, members in enumerate(rows):
            start = 0
            for number, member in enumerate(members):
                found = self.dialogues[member]
                end = start + found.ids.size - 1
                tokens = found.ids.astype(np.int64)
                ids[row, start:end] = tokens[:-1]
                targets[row, start:end] = np.where(found.scored[1:], tokens[1:], IGNORE)
                documents[row, start:end] = number
                start = end
            documents[row, start:] = len(members)  # padding, a document of its own
        return Batch(
            torch.from_numpy(ids),
            torch.from_numpy(targets),
            documents=torch.from_numpy(documents) if self.document_mask else None,
        )


def fitted(whole: Dialogue, seq_len: int) -> Dialogue:
    """The dialogue itself if a row holds it, else its first seq_len + 1 tokens."""
    if whole.ids.size <= seq_len + 1:
        return whole
    return Dialogue(whole.ids[: seq_len + 1], whole.scored[: seq_len + 1])


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Items into as few bins as best fit, longest first, finds; in every bin in their own order.

    Best fit takes the fullest bin that still has room, and needs at most 11/9 of the fewest bins
    plus a constant (Johnson et al. 1974). Bins are looked up by their room, of which there are
    few, so that a million items take seconds.

    Args:
        lengths: Of the items, each from 0 to room.
        room: Of a bin.
    """
    bins: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        at = bisect_left(rooms, lengths[item])
        if at == len(rooms):
            left, number = room, len(bins)
            bins.append([])
        else:
            left = rooms[at]
            number = by_room[left].pop()
            if not by_room[left]:
                rooms.pop(at)
        bins[number].append(item)
        left -= lengths[item]
        if not by_room.setdefault(left, []):
            insort(rooms, left)
        by_room[left].append(number)
    return [sorted(members) for members in bins]


def _encoded(tokenizer: Tokenizer, conversation: Conversation) -> Dialogue:
    try:
        found = dialogue(tokenizer, conversation.messages)
    except InputError as error:
        raise InputError(f"{conversation.where}: {error}") from error
    if not found.scored.any():
        raise InputError(f"{conversation.where}: no message of the assistant, so nothing to learn")
    return found
