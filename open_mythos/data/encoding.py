"""Text to tokens in bulk: in this process, or in several that answer in order."""

import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from open_mythos.data.shards import StartArray, TokenArray
from open_mythos.data.tokenizer import Tokenizer, tokenizer_from_folder
from open_mythos.errors import InputError


@dataclass(frozen=True)
class Texts:
    """Pieces of documents, to be encoded one after the other.

    Attributes:
        texts: The pieces.
        begins: Whether a document begins with the piece.
        ends: Whether it ends with it.
    """

    texts: list[str]
    begins: list[bool]
    ends: list[bool]


@dataclass(frozen=True, eq=False)
class Encoded:
    """Tokens of pieces, an end-of-text token after each document.

    Attributes:
        tokens: (n,) in the type that fits the vocabulary.
        starts: Where documents begin in it, ascending.
    """

    tokens: TokenArray
    starts: StartArray


class Job(Protocol):
    """What is encoded together."""

    @property
    def parts(self) -> Sequence[Texts]:
        """Each gets an answer of its own."""
        ...


AnyJob = TypeVar("AnyJob", bound=Job)


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Two bytes a token where the vocabulary allows it, else four."""
    return np.dtype(np.uint16 if vocab_size <= np.iinfo(np.uint16).max + 1 else np.uint32)


def encode_texts(tokenizer: Tokenizer, part: Texts) -> Encoded:
    """The tokens of some pieces.

    Raises:
        InputError: If the tokenizer has no end-of-text token, or gives an id beyond its vocabulary.
    """
    if tokenizer.eos_id is None:
        raise InputError("the tokenizer has no end-of-text token to end documents with")
    end = np.array([tokenizer.eos_id], dtype=np.uint32)
    arrays: list[npt.NDArray[Any]] = [np.empty(0, dtype=np.uint32)]
    starts: list[int] = []
    length = 0
    ids = encode_documents(tokenizer, part.texts)
    for array, begins, ends in zip(ids, part.begins, part.ends, strict=True):
        if begins:
            starts.append(length)
        arrays.append(array)
        length += len(array)
        if ends:
            arrays.append(end)
            length += 1
    tokens = np.concatenate(arrays)
    if length and int(tokens.max()) >= tokenizer.vocab_size:
        raise InputError(
            f"the tokenizer gave id {int(tokens.max())}, but says that it has "
            f"{tokenizer.vocab_size} tokens; its vocabulary file is damaged"
        )
    dtype = token_dtype(tokenizer.vocab_size)
    return Encoded(tokens.astype(dtype, copy=False), np.array(starts, dtype=np.int64))


def encode_documents(tokenizer: Tokenizer, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]:
    """Ids of each text, at once where the tokenizer has a way to do that."""
    together = getattr(tokenizer, "encode_documents", None)
    if together is not None:
        return list(together(texts))
    return [np.array(tokenizer.encode(text), dtype=np.uint32) for text in texts]


def encode_jobs(
    jobs: Iterable[AnyJob], tokenizer_folder: Path, workers: int
) -> Generator[tuple[AnyJob, list[Encoded]]]:
    """Each job with its answers, in the jobs' order, whoever does the work.

    At most two jobs per worker are under way, so that memory does not grow with the input.

    Args:
        jobs: Read as they are needed.
        tokenizer_folder: Where every process loads the tokenizer from.
        workers: Processes; 1 is this one.

    Raises:
        InputError: If a process dies.
    """
    if workers == 1:
        tokenizer = tokenizer_from_folder(tokenizer_folder)
        for job in jobs:
            yield job, [encode_texts(tokenizer, part) for part in job.parts]
        return
    # Spawned: a fork would copy locks that the threads of tokenizer libraries may hold.
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_begin_work, initargs=(tokenizer_folder,)
    )
    waiting: deque[tuple[AnyJob, Future[list[Encoded]]]] = deque()
    try:
        for job in jobs:
            with _holding_interrupts():  # submitting is what starts processes
                waiting.append((job, pool.submit(_encode, job.parts)))
            if len(waiting) > 2 * workers:
                first, answer = waiting.popleft()
                yield first, answer.result()
        while waiting:
            first, answer = waiting.popleft()
            yield first, answer.result()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process ended, most likely for want of memory; run the same command again "
            "with fewer --workers, which goes on where this stopped"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _holding_interrupts() -> Iterator[None]:
    """Ctrl-C waits meanwhile; a process that is started here never hears of it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- in a worker process --------------------------------------------------------------------------

# The one tokenizer of a worker process; loading it takes too long to do it for every job.
_tokenizer: list[Tokenizer] = []


def _begin_work(tokenizer_folder: Path) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _tokenizer.append(tokenizer_from_folder(tokenizer_folder))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # it was killed: nobody is left to take an answer


def _encode(parts: Sequence[Texts]) -> list[Encoded]:
    return [encode_texts(_tokenizer[0], part) for part in parts]
