"""Text to ids and back. The code lives in open_mythos.data.tokenizer."""

from open_mythos.data.tokenizer import (
    DEFAULT_MODEL_ID as DEFAULT_MODEL_ID,
    MythosTokenizer as MythosTokenizer,
)
