"""From a recipe to what it trains and is judged on: two sources that share no example."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from open_mythos.data.batch import BatchSource
from open_mythos.data.chat_rows import ChatRows
from open_mythos.data.chat_template import use_template
from open_mythos.data.conversations import read_conversations, split_conversations
from open_mythos.data.corpus import PLAYS, corpus_text, encode_corpus, train_validation_split
from open_mythos.data.documents import HUB
from open_mythos.data.mixture import Mixture
from open_mythos.data.prepared import Prepared, SplitName, open_prepared
from open_mythos.data.shards import StartArray, TokenArray
from open_mythos.data.tasks.mixed import UNKNOWN, MixedTasks
from open_mythos.data.tasks.registry import TASKS
from open_mythos.data.tasks.task import Task
from open_mythos.data.tokenizer import Tokenizer, load_tokenizer
from open_mythos.data.windows import TokenWindows
from open_mythos.data.word_tokenizer import word_tokenizer
from open_mythos.errors import ConfigError, InputError
from open_mythos.train.recipe import Recipe


EvaluationSource = TokenWindows | ChatRows | Task


@dataclass(frozen=True)
class Sources:
    """The data of one run.

    Attributes:
        train: Endless training batches.
        evaluation: What evaluators read: windows over the validation text, rows of held-out
            conversations, or the task, whose evaluation batches are drawn from a stream of their
            own. Of a mixture, the windows of its heaviest part that has any. None for a foreign
            source, or where no document is held out.
        tokenizer: Text and chat: what encoded it, kept beside the weights with its chat template.
            Mixed tasks: what names its ids.
        parts: Mixture: the held-out windows of each part that has any, by its path.
    """

    train: BatchSource
    evaluation: EvaluationSource | None = None
    tokenizer: Tokenizer | None = None
    parts: Mapping[str, TokenWindows] = field(default_factory=dict)


def build_sources(recipe: Recipe) -> Sources:
    """The recipe's data, read and encoded.

    Which documents are held out does not depend on recipe.seed: runs that differ in it are judged
    on the same text.

    Raises:
        InputError: If the corpus or the tokenizer is not there, or the text is too short.
        ConfigError: If the parts of a mixture do not fit together.
        DamagedError: If a prepared folder is not as it was written.
    """
    data = recipe.data
    if data.kind in TASKS:
        task = data.build_task(recipe.seed)
        spelt = word_tokenizer(task.words, UNKNOWN) if isinstance(task, MixedTasks) else None
        return Sources(task, task, spelt)
    if data.kind == "chat":
        return chat_sources(recipe)
    if data.corpus.startswith(HUB) and not data.mixture:
        raise InputError(
            f"data.corpus is {data.corpus!r}; data sets of the hub are prepared first: run "
            f"`open-mythos data prepare {data.corpus} --out DIR`, then set data.corpus=DIR"
        )
    if data.mixture:
        return mixture_sources(recipe)
    if data.corpus != PLAYS and Path(data.corpus).is_dir():
        folder = open_prepared(data.corpus)
        return Sources(
            windows_of(recipe, folder, "train"), held_out(recipe, folder), folder.tokenizer()
        )
    return corpus_sources(recipe)


def corpus_sources(recipe: Recipe) -> Sources:
    """The bundled plays, or a text file, held in memory."""
    data = recipe.data
    tokenizer = load_tokenizer(data.tokenizer)
    eos = tokenizer.eos_id
    if data.document_mask and eos is None:
        raise ConfigError(
            f"data.document_mask is true, but tokenizer {data.tokenizer!r} has no token that ends "
            "a document; choose another, or set it to false"
        )
    train, validation = (
        TokenWindows(
            tokens=tokens,
            seq_len=data.seq_len,
            batch_size=data.batch_size,
            seed=recipe.seed,
            vocab_size=tokenizer.vocab_size,
            starts=starts_after(tokens, eos) if data.document_mask and eos is not None else None,
        )
        for tokens in (
            encode_corpus(tokenizer, text)
            for text in train_validation_split(corpus_text(data.corpus), data.validation_share)
        )
    )
    return Sources(train, validation, tokenizer)


def mixture_sources(recipe: Recipe) -> Sources:
    """Several prepared folders, each with its share of the training samples.

    Raises:
        ConfigError: If they were not encoded by one tokenizer.
    """
    data = recipe.data
    weights = {path: weight for path, weight in data.mixture.items() if weight}
    folders = {path: open_prepared(path) for path in weights}
    first = next(iter(folders))
    for path, folder in folders.items():
        if folder.tokenizer_files != folders[first].tokenizer_files:
            names = [folders[p].manifest.tokenizer for p in (first, path)]
            raise ConfigError(
                f"data.mixture: {first!r} (tokenizer {names[0]!r}) and {path!r} ({names[1]!r}) "
                "were not encoded by the same tokenizer; prepare one of them again"
            )
    train = Mixture(
        parts=tuple(windows_of(recipe, folder, "train") for folder in folders.values()),
        weights=tuple(weights.values()),
        batch_size=data.batch_size,
        seed=recipe.seed,
    )
    judged = {path: held_out(recipe, folder) for path, folder in folders.items()}
    parts = {path: windows for path, windows in judged.items() if windows is not None}
    heaviest = max(parts, key=lambda path: weights[path], default=None)
    evaluation = None if heaviest is None else parts[heaviest]
    return Sources(train, evaluation, folders[first].tokenizer(), parts)


def held_out(recipe: Recipe, folder: Prepared) -> TokenWindows | None:
    """The validation text of a prepared folder, in shorter rows if it does not fill one."""
    tokens = folder.manifest.splits["validation"].tokens
    if tokens < 2:
        return None
    return windows_of(recipe, folder, "validation", min(recipe.data.seq_len, tokens - 1))


def windows_of(
    recipe: Recipe, folder: Prepared, split: SplitName, seq_len: int | None = None
) -> TokenWindows:
    """One split of a prepared folder."""
    return TokenWindows(
        tokens=folder.tokens(split),
        seq_len=seq_len or recipe.data.seq_len,
        batch_size=recipe.data.batch_size,
        seed=recipe.seed,
        vocab_size=folder.manifest.vocab_size,
        starts=folder.starts(split) if recipe.data.document_mask else None,
    )


def starts_after(tokens: TokenArray, eos_id: int) -> StartArray:
    """Where documents begin that an end-of-text token parts."""
    ends = np.flatnonzero(tokens[:-1] == eos_id)
    return np.concatenate([[0], ends + 1]).astype(np.int64)


def chat_sources(recipe: Recipe) -> Sources:
    """Conversations from a file, held in memory."""
    data = recipe.data
    tokenizer = load_tokenizer(data.tokenizer)
    if data.chat_template:
        use_template(tokenizer, data.chat_template)
    parts = split_conversations(read_conversations(data.corpus), data.validation_share)
    train, validation = (
        ChatRows.from_conversations(
            part,
            tokenizer,
            seq_len=data.seq_len,
            batch_size=data.batch_size,
            seed=recipe.seed,
            overlong=data.overlong,
            document_mask=data.document_mask,
        )
        for part in parts
    )
    return Sources(train, validation, tokenizer)
