"""The folder alone is enough to go on with: weights, config and tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from open_mythos.data.bpe_tokenizer import BPETokenizer
from open_mythos.data.tokenizer import save_tokenizer, tokenizer_from_folder
from open_mythos.errors import CheckpointError
from open_mythos.model.mythos import OpenMythos
from open_mythos.retrofit.folder import save_retrofit
from open_mythos.retrofit.surgery import Plan, retrofit


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_weights_and_tokenizer_come_back(
    pretrained: Callable[..., tuple[Any, Path]], tmp_path: Path, family: str
) -> None:
    _, folder = pretrained(family, tie_word_embeddings=family == "llama")
    save_tokenizer(BPETokenizer.plays(), folder)
    made = retrofit(folder, Plan(prelude=1, core=2, coda=1))
    assert "tokenizer.json" in save_retrofit(made, tmp_path / "looped")
    again = OpenMythos.from_pretrained(tmp_path / "looped")
    ids = torch.randint(0, 61, (1, 9))
    assert again.cfg == made.model.cfg
    with torch.no_grad():
        assert torch.equal(again(ids, 3), made.model(ids, 3))
    tokenizer = tokenizer_from_folder(tmp_path / "looped")
    assert tokenizer.encode("To be") == BPETokenizer.plays().encode("To be")


def test_a_full_folder_is_left_alone(
    pretrained: Callable[..., tuple[Any, Path]], tmp_path: Path
) -> None:
    _, folder = pretrained("llama")
    made = retrofit(folder, Plan(prelude=1, core=1, coda=1))
    assert save_retrofit(made, tmp_path / "new") == []
    for taken in (folder, tmp_path / "new"):
        with pytest.raises(CheckpointError, match="not empty"):
            save_retrofit(made, taken)
