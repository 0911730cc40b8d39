"""Text as documents: the bundled plays, the train-validation split, and its encoding."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt

from open_mythos.data.streams import Purpose, stream
from open_mythos.data.tokenizer import Tokenizer
from open_mythos.errors import InputError


# A form feed, the old "new page": it survives editors and does not occur in prose.
SEPARATOR = "\f"
PLAYS = "plays"


def plays_text() -> str:
    """About 1 MB of Shakespeare, nine plays, one document per scene (see NOTICE).

    Speakers stand alone on a line as "NAME:", their lines follow, a blank line ends a speech.
    """
    return files("open_mythos.data").joinpath("assets/plays.txt").read_text(encoding="utf-8")


def corpus_text(source: str | Path) -> str:
    """The bundled plays for "plays", else the UTF-8 text file of that path.

    Raises:
        InputError: When there is no such file, or it is not UTF-8.
    """
    if source == PLAYS:
        return plays_text()
    try:
        return Path(source).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"no text at {str(source)!r} ({error.strerror}); give a UTF-8 text file or {PLAYS!r}"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{str(source)!r} is not UTF-8 (byte {error.start}); convert it first"
        ) from error


def split_documents(text: str) -> list[str]:
    """The documents of a text, in order; those without a visible character are dropped.

    Line breaks around a document are dropped too, everything else is kept.
    """
    return [part.strip("\n") for part in text.split(SEPARATOR) if part.strip()]


def join_documents(documents: list[str]) -> str:
    """One text that `split_documents` takes apart again."""
    return f"\n\n{SEPARATOR}\n".join(documents)


def train_validation_split(
    text: str, validation_share: float = 0.1, seed: int = 0
) -> tuple[str, str]:
    """Two texts, (train, validation), that share no document.

    Documents are taken for validation in an order that the seed fixes, as long as their characters
    stay within the share; where not even one fits, the shortest is taken. Both keep the text's
    order. A text of a single document is cut once, at the paragraph end before the share.

    Raises:
        InputError: When the share is not inside (0, 1), or the text is too short to be cut.
    """
    if not 0.0 < validation_share < 1.0:
        raise InputError(f"validation_share is {validation_share}; it must lie inside (0, 1)")
    documents = split_documents(text)
    if len(documents) < 2:
        return _cut("".join(documents), validation_share)
    sizes = [len(document) for document in documents]
    room = validation_share * sum(sizes)
    held_out: set[int] = set()
    for index in stream(seed, Purpose.SPLIT).permutation(len(documents)).tolist():
        if sizes[index] <= room:
            held_out.add(index)
            room -= sizes[index]
    if not held_out:
        held_out = {sizes.index(min(sizes))}
    train = [d for i, d in enumerate(documents) if i not in held_out]
    return join_documents(train), join_documents([documents[i] for i in sorted(held_out)])


def _cut(text: str, validation_share: float) -> tuple[str, str]:
    if len(text) < 2:
        raise InputError(f"a text of {len(text)} characters cannot be split into two")
    target = min(max(int(len(text) * (1.0 - validation_share)), 1), len(text) - 1)
    paragraph = text.rfind("\n\n", 1, target)
    # Without a paragraph end in the half before the target, the share matters more than the seam.
    cut = paragraph if paragraph > target // 2 else target
    return text[:cut], text[cut:]


def encode_corpus(
    tokenizer: Tokenizer, text: str
) -> npt.NDArray[np.uint16] | npt.NDArray[np.uint32]:
    """Token ids of all documents, (N,), the tokenizer's end-of-text id after each.

    Without such an id, documents follow one another after a blank line. Two bytes a token where
    the vocabulary allows it, else four.

    Raises:
        InputError: When the text holds no document.
    """
    documents = split_documents(text)
    if not documents:
        raise InputError("the text holds no visible character; there is nothing to encode")
    ids: list[int] = []
    for document in documents:
        if tokenizer.eos_id is None:
            ids.extend(tokenizer.encode(f"{document}\n\n"))
        else:
            ids.extend(tokenizer.encode(document))
            ids.append(tokenizer.eos_id)
    if tokenizer.vocab_size <= np.iinfo(np.uint16).max + 1:
        return np.asarray(ids, dtype=np.uint16)
    return np.asarray(ids, dtype=np.uint32)
