"""From a recipe to what it trains and is judged on: two sources that share no example."""

from dataclasses import dataclass

from open_mythos.data.batch import BatchSource
from open_mythos.data.chat_rows import ChatRows
from open_mythos.data.chat_template import use_template
from open_mythos.data.conversations import read_conversations, split_conversations
from open_mythos.data.corpus import corpus_text, encode_corpus, train_validation_split
from open_mythos.data.tasks.registry import TASKS
from open_mythos.data.tasks.task import Task
from open_mythos.data.tokenizer import Tokenizer, load_tokenizer
from open_mythos.data.windows import TokenWindows
from open_mythos.train.recipe import Recipe


EvaluationSource = TokenWindows | ChatRows | Task


@dataclass(frozen=True)
class Sources:
    """The data of one run.

    Attributes:
        train: Endless training batches.
        evaluation: What evaluators read: windows over the validation text, rows of held-out
            conversations, or the task, whose evaluation batches are drawn from a stream of their
            own. None for a foreign source.
        tokenizer: Text and chat: what encoded it, kept beside the weights with its chat template.
    """

    train: BatchSource
    evaluation: EvaluationSource | None = None
    tokenizer: Tokenizer | None = None


def build_sources(recipe: Recipe) -> Sources:
    """The recipe's data, read and encoded.

    Which documents are held out does not depend on recipe.seed: runs that differ in it are judged
    on the same text.

    Raises:
        InputError: If the corpus or the tokenizer is not there, or the text is too short.
    """
    data = recipe.data
    if data.kind in TASKS:
        task = data.build_task(recipe.seed)
        return Sources(task, task)
    tokenizer = load_tokenizer(data.tokenizer)
    if data.kind == "chat":
        return _chats(recipe, tokenizer)
    texts = train_validation_split(corpus_text(data.corpus), data.validation_share)
    train, validation = (
        TokenWindows(
            tokens=encode_corpus(tokenizer, text),
            seq_len=data.seq_len,
            batch_size=data.batch_size,
            seed=recipe.seed,
            vocab_size=tokenizer.vocab_size,
        )
        for text in texts
    )
    return Sources(train, validation, tokenizer)


def _chats(recipe: Recipe, tokenizer: Tokenizer) -> Sources:
    data = recipe.data
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
        )
        for part in parts
    )
    return Sources(train, validation, tokenizer)
