"""Every answer is learnt once a round, nothing crosses a border, rows depend on numbers alone."""

from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.data.batch import IGNORE, Batch
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.chat import dialogue
from open_mythos.data.chat_rows import ChatRows, pack
from open_mythos.data.conversations import Conversation
from open_mythos.errors import InputError


BYTES = ByteTokenizer()
USER, ASSISTANT, END = (
    BYTES.special_tokens[name] for name in ("<|user|>", "<|assistant|>", "<|endoftext|>")
)


def asked(question: str, *answers: str) -> Conversation:
    messages: list[dict[str, str]] = [{"role": "user", "content": question}]
    messages += [{"role": "assistant", "content": answer} for answer in answers]
    return Conversation(tuple(messages), f"x.jsonl:{len(question)}")


# At most 8 + 12 characters of four bytes and three tokens: 83, which a row has room for.
ROW = 96
CHATS = st.lists(
    st.tuples(st.text(max_size=8), st.text(max_size=12)).map(lambda pair: asked(*pair)),
    min_size=1,
    max_size=12,
)


def rows_of(chats: list[Conversation], **changes: Any) -> ChatRows:
    return ChatRows.from_conversations(
        chats, BYTES, **{"seq_len": ROW, "batch_size": 3, "seed": 1, **changes}
    )


def pieces(batch: Batch) -> Counter[tuple[tuple[int, int], ...]]:
    """The runs of (input, target) between one conversation and the next, from the batch alone.

    Each begins with a user's token and has no other; what is left of a row is padding.
    """
    found: Counter[tuple[tuple[int, int], ...]] = Counter()
    for ids, targets in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
        starts = [at for at, i in enumerate(ids) if i == USER]
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            found[tuple(zip(ids[start:end], targets[start:end], strict=True))] += 1
    return found


def wanted(chat: Conversation) -> tuple[tuple[int, int], ...]:
    question, answer = (m["content"].encode() for m in chat.messages)
    ids = [USER, *question, END, ASSISTANT, *answer, END]
    silent = len(question) + 2
    return tuple(zip(ids, [IGNORE] * silent + ids[silent + 1 :], strict=False))


@given(CHATS)
def test_a_round_holds_every_conversation_once_and_scores_its_answer(
    chats: list[Conversation],
) -> None:
    rows = rows_of(chats)
    found: Counter[Any] = Counter()
    for batch in rows.evaluation_batches():
        for piece, times in pieces(batch).items():
            body = list(piece)
            while body and body[-1] == (0, IGNORE):
                body.pop()
            found[tuple(body)] += times
    assert found == Counter(wanted(chat) for chat in chats)
    assert rows.cut == rows.dropped == 0
    targets = sum(batch.scored for batch in rows.evaluation_batches())
    positions = len(rows.rows) * ROW
    assert rows.scored_share == targets / positions
    assert rows.real_share == sum(len(wanted(chat)) for chat in chats) / positions


@given(CHATS, st.integers(0, 50), st.integers(1, 5), st.randoms(use_true_random=False))
def test_a_row_depends_on_its_number_alone(
    chats: list[Conversation], step: int, size: int, random: Any
) -> None:
    one, other = rows_of(chats, batch_size=size), rows_of(chats, batch_size=1)
    whole = one.batch(step)
    order = random.sample(range(size), size)
    for row in order:
        alone = one.batch(step, rows=[row])
        same = other.batch(step * size + row)
        for found in (alone, same):
            assert found.ids.tolist() == [whole.ids[row].tolist()]
            assert found.targets.tolist() == [whole.targets[row].tolist()]
    shuffled = one.batch(step, rows=order)
    assert shuffled.ids.tolist() == [whole.ids[row].tolist() for row in order]


@given(CHATS, st.integers(0, 9))
def test_documents_number_the_conversations_of_a_row(chats: list[Conversation], step: int) -> None:
    rows = rows_of(chats, document_mask=True)
    batch = rows.batch(step)
    # A conversation begins with its user's token, and padding after the last target.
    begins = (batch.ids == USER).long()
    targets = (batch.targets != IGNORE).long()
    padding = targets.flip(1).cumsum(1).flip(1) == 0
    wanted = torch.where(padding, begins.sum(1, keepdim=True), begins.cumsum(1) - 1)
    assert batch.documents is not None
    assert torch.equal(batch.documents, wanted)
    assert rows_of(chats).batch(step).documents is None


@given(CHATS, st.integers(0, 3))
def test_every_round_shows_every_row_once(chats: list[Conversation], turn: int) -> None:
    rows = rows_of(chats, batch_size=1)
    size = len(rows.rows)
    seen = [rows.batch(turn * size + place).ids.tolist() for place in range(size)]
    every = [ids for batch in rows.evaluation_batches() for ids in batch.ids.tolist()]
    assert sorted(ids for (ids,) in seen) == sorted(every)


def test_rounds_and_seeds_have_orders_of_their_own() -> None:
    chats = [asked(str(n), "x" * 50) for n in range(40)]
    orders = []
    for seed in (0, 1):
        rows = rows_of(chats, batch_size=40, seed=seed)
        orders += [rows.batch(turn).ids[:, 1].tolist() for turn in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


@given(CHATS, st.integers(4, 40))
def test_what_is_too_long_is_cut_and_counted(chats: list[Conversation], seq_len: int) -> None:
    long = [chat for chat in chats if len(wanted(chat)) > seq_len]
    bare = [c for c in long if all(target == IGNORE for _, target in wanted(c)[:seq_len])]
    if len(bare) == len(chats):
        with pytest.raises(InputError, match="no conversation is left"):
            rows_of(chats, seq_len=seq_len)
        return
    rows = rows_of(chats, seq_len=seq_len)
    assert (rows.cut, rows.dropped) == (len(long), len(bare))
    scored = sum(t != IGNORE for chat in chats for _, t in wanted(chat)[:seq_len])
    assert sum(batch.scored for batch in rows.evaluation_batches()) == scored
    if long:
        with pytest.raises(InputError, match=r"x\.jsonl:.* tokens are more than the"):
            rows_of(chats, seq_len=seq_len, overlong="refuse")


@given(st.lists(st.integers(0, 30)))
def test_packing_loses_and_splits_nothing_and_leaves_little(lengths: list[int]) -> None:
    bins = pack(lengths, 30)
    assert sorted(item for members in bins for item in members) == list(range(len(lengths)))
    loads = [sum(lengths[item] for item in members) for members in bins]
    assert all(load <= 30 for load in loads)
    # No two bins would fit into one: the first would have taken what the other began with.
    assert all(a + b > 30 for i, a in enumerate(loads) for b in loads[:i])


def test_packing_is_best_fit() -> None:
    # 7 goes to the bin with 3 left over after 17, not to the one with 8 left.
    assert pack([17, 12, 3], 20) == [[0, 2], [1]]
    assert pack([], 5) == []


def test_packed_rows_are_nearly_full_of_real_tokens() -> None:
    random = np.random.Generator(np.random.Philox(3))
    chats = [asked("q" * int(n), "a" * int(n)) for n in random.integers(1, 60, 400)]
    rows = rows_of(chats, seq_len=256)
    # One conversation a row, as is often done, would leave three quarters to padding.
    assert rows.real_share > 0.97
    assert f"{rows.real_share:.1%} real tokens" in rows.summary()
    assert "400 conversations" in rows.summary()


def test_bad_settings_and_conversations_are_refused() -> None:
    chats = [asked("q", "a")]
    rows = rows_of(chats)
    assert (rows.vocab_size, rows.max_level) == (257, 0)
    for call, message in (
        (lambda: rows.batch(-1), "step is -1"),
        (lambda: rows.batch(0, 1), "level is 1"),
        (lambda: rows.batch(0, rows=[3]), "row 3 is asked for"),
        (lambda: rows_of(chats, seq_len=0), "seq_len is 0"),
        (lambda: rows_of(chats, overlong="drop"), "overlong is 'drop'"),
        (lambda: rows_of([asked("q")]), "x.jsonl:1: no message of the assistant"),
        (lambda: rows_of([]), "no conversation is left"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    bad = Conversation(({"role": "boss", "content": "go"},), "y.jsonl:9")
    with pytest.raises(InputError, match=r"y\.jsonl:9: .*unknown role boss"):
        rows_of([bad])


def test_several_answers_are_all_scored() -> None:
    chat = asked("q", "one", "two")
    batch = next(islice(rows_of([chat]).evaluation_batches(), 1))
    found = batch.targets[batch.targets != IGNORE].tolist()
    assert found == [*b"one", END, *b"two", END]
    assert batch.scored == int(dialogue(BYTES, chat.messages).scored.sum())
