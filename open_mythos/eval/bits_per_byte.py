"""Bits per byte of texts, each read from its start: a score that compares across tokenizers."""

from collections.abc import Sequence

from open_mythos.data.tokenizer import Tokenizer
from open_mythos.errors import InputError
from open_mythos.eval.likelihood import first_id, likelihoods, rolling
from open_mythos.eval.perplexity import Score
from open_mythos.model.mythos import OpenMythos


def score_texts(
    model: OpenMythos,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    n_loops: int | None = None,
    *,
    exit: object = None,
) -> Score:
    """How well texts are predicted, every token of each exactly once, the first after an end.

    A text longer than the model reads goes through it in windows, the last of them as full as it
    can be, so that tokens have all the context there is.

    Args:
        model: The network; its mode is restored.
        tokenizer: Its tokenizer, with an end of text.
        texts: Read apart from one another.
        n_loops: Loops; None is the model's own number.
        exit: Where positions leave the loop early.

    Raises:
        InputError: If the texts hold no token, or the tokenizer has no end of text.
    """
    first, length = first_id(tokenizer), model.cfg.max_seq_len
    pairs = [pair for text in texts for pair in rolling(tokenizer.encode(text), first, length)]
    if not pairs:
        raise InputError(f"{len(texts)} texts hold no token; give at least one that is not empty")
    found = likelihoods(model, pairs, n_loops, exit=exit)
    count = sum(one.count for one in found)
    return Score(
        loss=-sum(one.logprob for one in found) / count,
        accuracy=sum(one.hits for one in found) / count,
        n_targets=count,
        n_loops=n_loops,
        n_bytes=sum(len(text.encode()) for text in texts),
    )
