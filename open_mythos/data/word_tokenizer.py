"""A tokenizer whose tokens are words between spaces: for models of tasks, whose ids have names."""

from collections.abc import Sequence

from tokenizers import Tokenizer as Backend, models, pre_tokenizers

from open_mythos.data.bpe_tokenizer import BPETokenizer
from open_mythos.errors import InputError


def word_tokenizer(words: Sequence[str], unknown: str) -> BPETokenizer:
    """The tokenizer in which word i has id i; texts are read and written with spaces between words.

    Args:
        words: All different, without spaces.
        unknown: The one of them that stands for whatever is none of them.

    Raises:
        InputError: If two are alike, or `unknown` is not among them.
    """
    ids = {word: i for i, word in enumerate(words)}
    if len(ids) < len(words) or unknown not in ids:
        raise InputError(f"{len(words)} words, of which {len(ids)} differ; {unknown!r} must be one")
    backend = Backend(models.WordLevel(ids, unk_token=unknown))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return BPETokenizer(backend)
