from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.batch import IGNORE, Batch
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.windows import TokenWindows
from open_mythos.eval.sample_writer import (
    MARK,
    PROMPT,
    SAMPLING,
    WRITTEN,
    SampleWriter,
    held_out_prompts,
    prompts_of,
)
from open_mythos.generate.sampling import pick
from open_mythos.model.mythos import OpenMythos


BYTES = ByteTokenizer()
Config = Callable[..., MythosConfig]


@pytest.fixture
def model(tiny_config: Config, randomised: Callable[..., OpenMythos]) -> OpenMythos:
    cfg = tiny_config(vocab_size=BYTES.vocab_size, max_output_tokens=16)
    return randomised(OpenMythos(cfg)).train()


def by_hand(model: OpenMythos, prompt: list[int], n_loops: int, seed: int, room: int) -> list[int]:
    """Every token from a full pass over all before it."""
    draws, ids = torch.Generator().manual_seed(seed), list(prompt)
    model.eval()
    with torch.no_grad():
        for _ in range(room):
            last = model(torch.tensor([ids]), n_loops)[:, -1]
            ids.append(int(pick(last, SAMPLING, draws)))
            if ids[-1] == BYTES.eos_id:
                break
    model.train()
    return [token for token in ids[len(prompt) :] if token != BYTES.eos_id]


def test_what_is_written_is_what_the_model_says_and_always_the_same(model: OpenMythos) -> None:
    prompts = prompts_of(["To be", "or"], BYTES)
    writer = SampleWriter(prompts, BYTES, n_loops=2, seed=5)
    before = torch.get_rng_state()
    texts = writer(model, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert texts == writer(model, 100)
    for name, prompt in zip("12", prompts, strict=True):
        start, _, rest = texts[name].partition(MARK)
        assert start == BYTES.decode(prompt)
        room = min(WRITTEN, model.cfg.max_output_tokens)
        assert rest == BYTES.decode(by_hand(model, prompt, 2, 5, room))
    assert SampleWriter(prompts, BYTES, n_loops=2, seed=6)(model, 0) != texts


def test_ids_that_pad_the_vocabulary_spell_nothing(tiny_config: Config) -> None:
    model = OpenMythos(tiny_config(vocab_size=4 * BYTES.vocab_size, max_output_tokens=16))
    prompt = BYTES.encode("To be")
    _, _, rest = SampleWriter([prompt], BYTES, n_loops=1, seed=3)(model, 0)["1"].partition(MARK)
    drawn = by_hand(model, prompt, 1, 3, 16)
    assert max(drawn) >= BYTES.vocab_size
    assert rest == BYTES.decode([token for token in drawn if token < BYTES.vocab_size])


def test_a_prompt_leaves_room_to_write(model: OpenMythos) -> None:
    writer = SampleWriter([list(range(97, 97 + 26)) * 3], BYTES, n_loops=1)
    start, _, _ = writer(model, 0)["1"].partition(MARK)
    assert len(start) == model.cfg.max_seq_len // 2


def test_a_network_that_cannot_generate_writes_nothing() -> None:
    assert SampleWriter([[1]], BYTES, 1)(nn.Linear(1, 1), 0) == {}


def test_an_empty_prompt_begins_a_document() -> None:
    assert prompts_of(["", "a"], BYTES) == [[BYTES.eos_id], [97]]


def test_held_out_text_lends_its_beginnings() -> None:
    tokens = np.arange(1000) % 200
    windows = TokenWindows(tokens, 40, 2, seed=0, vocab_size=BYTES.vocab_size)
    assert held_out_prompts(windows, 3) == [
        tokens[start : start + PROMPT].tolist() for start in (0, 40, 80)
    ]


class Answers:
    seq_len = 6

    def evaluation_batches(self) -> Iterator[Batch]:
        ids = torch.arange(12).view(2, 6)
        scored = torch.tensor([[0, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
        yield Batch(ids, torch.where(scored, ids, IGNORE))


def test_questions_are_asked_up_to_where_the_answer_begins() -> None:
    assert held_out_prompts(Answers(), 2) == [[0, 1, 2], [6, 7, 8, 9, 10, 11]]
