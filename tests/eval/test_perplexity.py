import math
from collections.abc import Iterator
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.batch import IGNORE, Batch
from open_mythos.data.bpe_tokenizer import BPETokenizer
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.windows import TokenWindows
from open_mythos.errors import InputError
from open_mythos.eval.perplexity import Score, score
from open_mythos.model.mythos import OpenMythos


class Bigram(nn.Module):
    """Logits that depend on the token before alone, so that windows cannot change the loss."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab, vocab)
        self.dropout = nn.Dropout(0.5)
        self.loops: list[int | None] = []

    def forward(self, ids: Tensor, n_loops: int | None = None) -> Tensor:
        self.loops.append(n_loops)
        logits: Tensor = self.dropout(self.table(ids))
        return logits


def by_hand(model: Bigram, tokens: list[int]) -> tuple[float, int]:
    logs = model.table.weight.detach().double().log_softmax(-1)
    pairs = list(pairwise(tokens))
    best = model.table.weight.argmax(-1)
    return sum(-float(logs[a, b]) for a, b in pairs), sum(int(best[a]) == b for a, b in pairs)


@pytest.mark.parametrize("seq_len", [1, 3, 7, 40])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_target_counts_once_however_the_text_is_cut(seq_len: int, batch_size: int) -> None:
    vocab = 11
    tokens = np.random.default_rng(seq_len).integers(vocab, size=101)
    model = Bigram(vocab)
    windows = TokenWindows(tokens, seq_len, batch_size, seed=0, vocab_size=vocab)
    found = score(model, windows.evaluation_batches(), n_loops=3)
    total, hits = by_hand(model, tokens.tolist())
    assert found.n_targets == 100
    assert found.loss == pytest.approx(total / 100, rel=1e-6)
    assert found.accuracy == hits / 100
    assert found.perplexity == pytest.approx(math.exp(total / 100), rel=1e-6)
    assert found.bits_per_byte is None
    assert set(model.loops) == {3}


def test_a_uniform_guess_costs_the_logarithm_of_the_vocabulary() -> None:
    model = Bigram(16)
    nn.init.zeros_(model.table.weight)
    ids = torch.zeros(2, 8, dtype=torch.int64)
    found = score(model, [Batch(ids, ids)])
    assert found.loss == pytest.approx(math.log(16))
    assert found.perplexity == pytest.approx(16)
    assert found.numbers().keys() == {"loss", "perplexity", "accuracy"}


@pytest.mark.parametrize("seq_len", [1, 5, 64])
def test_bytes_are_counted_across_windows_that_cut_characters(seq_len: int) -> None:
    text = "A\u00e9\u20ac\U0001f600 " * 20
    byte = ByteTokenizer()
    ids = [*byte.encode(text), byte.eos_id, *byte.encode(text), byte.eos_id]
    model = Bigram(byte.vocab_size)
    windows = TokenWindows(np.asarray(ids), seq_len, 3, seed=0, vocab_size=byte.vocab_size)
    found = score(model, windows.evaluation_batches(), tokenizer=byte)
    # The first byte is no target, and the ends of text are targets but no bytes.
    assert found.n_bytes == 2 * len(text.encode()) - 1
    total, _ = by_hand(model, ids)
    assert found.bits_per_byte == pytest.approx(total / math.log(2) / found.n_bytes, rel=1e-6)
    assert found.numbers()["bits_per_byte"] == found.bits_per_byte


@pytest.mark.parametrize("batches", [1, 3])
def test_bytes_are_those_of_the_targets_that_were_scored_alone(batches: int) -> None:
    plays = BPETokenizer.plays()
    ids = plays.encode("To be, or not to be, that is the question: " * 9)
    windows = TokenWindows(np.asarray(ids), 7, 2, seed=0, vocab_size=plays.vocab_size)
    first = islice(windows.evaluation_batches(), batches)
    found = score(Bigram(plays.vocab_size), first, tokenizer=plays)
    assert found.n_targets == 14 * batches < len(ids) - 1
    assert found.n_bytes == sum(len(plays.decode([i])) for i in ids[1 : 1 + 14 * batches])
    assert found.n_bytes > found.n_targets


def test_evaluating_leaves_modes_gradients_and_random_numbers_alone() -> None:
    model = Bigram(5)
    model.table.eval()
    ids = torch.randint(5, (2, 4))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = score(model, [Batch(ids, ids)])
    assert torch.equal(torch.rand(2), expected)
    assert first == score(model, [Batch(ids, ids)])
    assert (model.training, model.table.training, model.dropout.training) == (True, False, True)
    assert model.table.weight.grad is None

    def broken() -> Iterator[Batch]:
        yield Batch(ids, ids)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        score(model, broken())
    assert model.dropout.training


def test_the_loops_asked_for_go_before_the_batchs_own() -> None:
    model = Bigram(5)
    ids = torch.randint(5, (1, 4))
    score(model, [Batch(ids, ids, n_loops=7)])
    score(model, [Batch(ids, ids, n_loops=7)], 2)
    score(model, [Batch(ids, ids)])
    assert model.loops == [7, 2, None]


def test_the_real_network_is_scored_as_its_logits_say() -> None:
    torch.manual_seed(0)
    cfg = MythosConfig(
        vocab_size=9,
        dim=16,
        n_heads=2,
        n_kv_heads=1,
        attn_type="gqa",
        max_seq_len=8,
        n_experts=2,
        n_experts_per_tok=1,
        expert_dim=8,
        dropout=0.2,
    )
    model = OpenMythos(cfg)
    ids, targets = torch.randint(9, (3, 8)), torch.randint(9, (3, 8))
    found = score(model, [Batch(ids, targets)], 2)
    assert model.training
    with torch.no_grad():
        logits = model.eval()(ids, 2)
    wanted = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert found.loss == pytest.approx(float(wanted), rel=1e-5)


def test_nothing_to_score_is_refused() -> None:
    ids = torch.zeros(1, 2, dtype=torch.int64)
    for batches in ([], [Batch(ids, torch.full_like(ids, IGNORE))]):
        with pytest.raises(InputError, match="no target"):
            score(Bigram(2), batches)


def test_a_hopeless_loss_has_infinite_perplexity() -> None:
    found = Score(1000.0, 0.0, 1)
    assert found.perplexity == math.inf
    assert found.bits_per_byte is None
