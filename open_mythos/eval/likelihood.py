"""Likelihood of what follows a context, at any number of loops: what scorers are made of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from open_mythos.data.tokenizer import Tokenizer
from open_mythos.errors import InputError
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.mode import evaluating


Pair = tuple[list[int], list[int]]  # ids of a context, at least one, and of what follows

# Positions of one pass; their logits over 50,000 words take 0.8 GB.
POSITIONS = 4096


@dataclass(frozen=True)
class Likelihood:
    """How well a model expects a continuation.

    Attributes:
        logprob: Natural logarithm of its probability.
        hits: Tokens of it that the largest logit names.
        count: Its tokens.
    """

    logprob: float
    hits: int
    count: int

    @property
    def greedy(self) -> bool:
        """Whether greedy decoding would have said it."""
        return self.hits == self.count


@torch.inference_mode()
def likelihoods(
    model: OpenMythos,
    pairs: Sequence[Pair],
    n_loops: int | None = None,
    *,
    exit: object = None,
    positions: int = POSITIONS,
) -> list[Likelihood]:
    """The likelihood of each continuation after its context, which is cut on the left to fit.

    Rows of like length share a pass, padded on the right, where no real position looks.

    Args:
        model: The network; its mode is restored.
        pairs: Ids of contexts and continuations, none of them empty.
        n_loops: Loops; None is the model's own number.
        exit: Where positions leave the loop early.
        positions: Of one pass at most, if that is more than one row has.

    Raises:
        InputError: If a context or a continuation is empty, or a continuation too long.
    """
    for context, continuation in pairs:
        _check(context, continuation, model.cfg.max_seq_len)
    found: dict[int, Likelihood] = {}
    order = sorted(range(len(pairs)), key=lambda i: -sum(map(len, pairs[i])))
    with evaluating(model):
        for batch in _batches(order, pairs, model.cfg.max_seq_len, positions):
            rows = [pairs[i] for i in batch]
            found |= dict(zip(batch, _scored(model, rows, n_loops, exit), strict=True))
    return [found[i] for i in range(len(pairs))]


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> Pair:
    """Ids of a context and of what follows it, cut where the context's own ids end.

    Spaces at the end of the context belong to what follows: tokens begin with spaces, and seldom
    end in them. An empty context is the end of the text before.

    Raises:
        InputError: If the context is empty and the tokenizer has no end of text.
    """
    if not context:
        ids = tokenizer.encode(continuation)
        return [first_id(tokenizer)], ids
    kept = context.rstrip()
    whole = tokenizer.encode(context + continuation)
    before = tokenizer.encode(kept) if kept else [first_id(tokenizer)]
    if not kept:
        return before, whole
    return before, whole[len(before) :]


def rolling(ids: Sequence[int], first: int, length: int) -> Iterator[Pair]:
    """Pairs that ask every token of a text once, each with as much context as `length` allows.

    Args:
        ids: The text.
        first: What stands before it.
        length: Positions of one pass.
    """
    known = [first, *ids]
    for start in range(0, len(ids), length):
        end = min(start + length, len(ids))
        yield known[max(end - length, 0) : start + 1], known[start + 1 : end + 1]


def first_id(tokenizer: Tokenizer) -> int:
    """What stands before a text: the end of the one before.

    Raises:
        InputError: If the tokenizer has none.
    """
    if tokenizer.eos_id is None:
        raise InputError(
            "the tokenizer has no end of text, with which a text without context begins; give "
            "contexts, or another tokenizer"
        )
    return tokenizer.eos_id


def _check(context: list[int], continuation: list[int], length: int) -> None:
    if not context or not continuation:
        raise InputError(
            f"a context of {len(context)} tokens and a continuation of {len(continuation)}: both "
            "must have at least one"
        )
    if len(continuation) > length:
        raise InputError(
            f"a continuation has {len(continuation)} tokens, the model reads {length}; cut it by "
            "`rolling`"
        )


def _batches(
    order: Sequence[int], pairs: Sequence[Pair], length: int, positions: int
) -> Iterator[list[int]]:
    """Indices of the rows of each pass, the longest first."""
    batch: list[int] = []
    for i in order:
        longest = min(sum(map(len, pairs[batch[0] if batch else i])) - 1, length)
        if batch and (len(batch) + 1) * longest > positions:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _scored(
    model: OpenMythos, rows: Sequence[Pair], n_loops: int | None, exit: object
) -> list[Likelihood]:
    texts = [[*context, *continuation] for context, continuation in rows]
    texts = [text[-(model.cfg.max_seq_len + 1) :] for text in texts]
    width = max(map(len, texts)) - 1
    device = model.embed.weight.device
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text) - 1] = torch.tensor(text[:-1])
    starts = [len(text) - 1 - len(asked) for text, (_, asked) in zip(texts, rows, strict=True)]
    logits = model(ids.to(device), n_loops, logits_to_keep=width - min(starts), exit=exit)
    return [
        _likelihood(logits[row, start - min(starts) :][: len(asked)], asked)
        for row, (start, (_, asked)) in enumerate(zip(starts, rows, strict=True))
    ]


def _likelihood(logits: Tensor, asked: list[int]) -> Likelihood:
    """Of tokens `asked` by logits (T, vocab); summed in float64, as losses are."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    wanted = torch.tensor(asked, device=logits.device)
    said = wide.log_softmax(-1).gather(1, wanted.unsqueeze(1))
    hits = int((wide.argmax(-1) == wanted).sum())
    return Likelihood(float(said.double().sum()), hits, len(asked))
