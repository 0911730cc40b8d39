"""Importing the module is enough for the auto classes; importing the library needs nothing."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from open_mythos.hf.auto import OpenMythosConfig, OpenMythosForCausalLM
from open_mythos.model.mythos import OpenMythos


@pytest.mark.parametrize("by", ["library", "transformers"])
def test_a_folder_of_either_is_found(hf_model: Any, by: str, tmp_path: Path) -> None:
    model, ids = hf_model(), torch.randint(37, (2, 6))
    (model if by == "transformers" else model.model).save_pretrained(tmp_path)
    found = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(found) is OpenMythosForCausalLM
    assert type(AutoConfig.from_pretrained(tmp_path)) is OpenMythosConfig
    assert torch.equal(found(ids).logits, model(ids).logits)
    assert torch.equal(OpenMythos.from_pretrained(tmp_path)(ids), model(ids).logits)


def test_the_library_does_without_transformers_and_this_module_says_what_it_lacks() -> None:
    code = (
        "import sys\n"
        "sys.modules['transformers'] = None\n"
        "import open_mythos\n"
        "from open_mythos.errors import MissingExtraError\n"
        "open_mythos.OpenMythos\n"
        "try:\n"
        "    import open_mythos.hf.auto\n"
        "except MissingExtraError as error:\n"
        "    assert 'open-mythos[hf]' in str(error)\n"
        "else:\n"
        "    raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
