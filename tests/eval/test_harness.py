"""lm-eval asks, and says what our own scorers say."""

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from open_mythos.data.bpe_tokenizer import BPETokenizer
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.tokenizer import save_tokenizer
from open_mythos.errors import InputError
from open_mythos.eval.likelihood import encode_pair, rolling
from open_mythos.eval.offline_scores import score_offline
from open_mythos.eval.offline_tasks import OFFLINE
from open_mythos.model.mythos import OpenMythos


pytest.importorskip("lm_eval", reason="lm-eval, of the extra [eval]")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the harness and what it imports
harness = import_module("open_mythos.eval.harness")
LoopedLM, evaluate_loops, numbers = harness.LoopedLM, harness.evaluate_loops, harness.numbers


@pytest.fixture
def network(tiny_config: Any, randomised: Any) -> OpenMythos:
    return randomised(OpenMythos(tiny_config(vocab_size=257, max_seq_len=96))).eval()


def ask(lm: Any, kind: str, *arguments: tuple[Any, ...]) -> Any:
    from lm_eval.api.instance import Instance

    requests = [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]  # type: ignore[arg-type]
    return getattr(lm, kind)(requests)


@pytest.mark.slow
def test_the_harness_and_our_scorers_say_the_same(
    network: OpenMythos, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, how = list(OFFLINE), {"limit": 3}
    monkeypatch.setattr(harness, "simple_evaluate", quick := Quick(harness.simple_evaluate))
    theirs = evaluate_loops(network, ByteTokenizer(), names, [1, 3], **how)
    ours = score_offline(network, ByteTokenizer(), names, [1, 3], **how)
    assert quick.asked == 2
    assert theirs.scores.keys() == ours.scores.keys()
    for task, metric, values in ours.rows():
        got = [theirs.scores[task][metric][n] for n in ours.loops]
        assert got == pytest.approx(values, rel=1e-9), (task, metric)


@pytest.mark.parametrize("window", [1, 97])
def test_windows_that_cannot_be_read_are_refused(network: OpenMythos, window: int) -> None:
    with pytest.raises(InputError, match=f"window is {window}"):
        LoopedLM(network, ByteTokenizer(), window=window)


def test_a_server_has_windows_of_its_own(network: OpenMythos) -> None:
    with pytest.raises(InputError, match="leave it out"):
        evaluate_loops(network, ByteTokenizer(), ["mythos_sums"], [1], server="http://x", window=9)


class Quick:
    """The harness's own call, counted."""

    def __init__(self, call: Any) -> None:
        self.call, self.asked = call, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.asked += 1
        return self.call(*args, **kwargs)


def test_windows_and_pairs_are_the_harnesss_own(network: OpenMythos) -> None:
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    lm = LoopedLM(network, BPETokenizer.plays())
    for size in (1, 5, 95, 96, 97, 300):
        ids = torch.randint(257, (size,)).tolist()
        theirs = get_rolling_token_windows(
            token_list=ids, prefix_token=7, max_seq_len=96, context_len=1
        )
        assert list(rolling(ids, 7, 96)) == [make_disjoint_window(pair) for pair in theirs]
    for context, continuation in (("To be", " or"), ("To be  ", "or"), ("a b\n", "c")):
        want = lm._encode_pair(context, continuation)
        assert encode_pair(lm.words, context, continuation) == want


@torch.no_grad()
def test_what_is_asked_is_answered_at_the_given_loops(network: OpenMythos) -> None:
    one, two = (LoopedLM(network, ByteTokenizer(), loops=n) for n in (1, 2))
    ids = torch.tensor([[256, *b"hello"]])
    logits = network(ids, 2).double().log_softmax(-1)[0]
    want = sum(float(logits[t, ids[0, t + 1]]) for t in range(5))
    assert ask(two, "loglikelihood_rolling", ("hello",))[0] == pytest.approx(want, abs=1e-4)
    (first, greedy), (_, again) = ask(two, "loglikelihood", ("", "hello"), ("he", "llo"))
    assert first == pytest.approx(want, abs=1e-4)
    assert (greedy, again) == (False, False)
    assert ask(one, "loglikelihood", ("", "hello"))[0][0] != pytest.approx(want, abs=1e-4)
    said = ask(
        two, "generate_until", ("he", {"until": "\n", "max_gen_toks": 3}), ("abc", {"until": []})
    )
    alone = network.generate(torch.tensor([list(b"he")]), 3, 2, 0.0, eos_token_id=256)
    text = ByteTokenizer().decode(alone[0, 2:].tolist())
    assert said[0] == text.split("\n")[0]
    with pytest.raises(InputError, match="greedy"):
        ask(two, "generate_until", ("he", {"do_sample": True, "temperature": 0.7}))


def test_it_is_found_by_name_and_reads_a_folder(network: OpenMythos, tmp_path: Path) -> None:
    from lm_eval.api.registry import get_model

    network.save_pretrained(tmp_path)
    save_tokenizer(ByteTokenizer(), tmp_path)
    kind = get_model("open-mythos")
    lm = kind.create_from_arg_string(f"pretrained={tmp_path},loops=2", {"batch_size": 1})
    assert (lm.loops, lm.eot_token_id, lm.max_length) == (2, 256, 96)
    assert lm.tok_encode("a") == [97]
    assert "257" in lm.tokenizer_name
    want = ask(LoopedLM(network, ByteTokenizer(), 2), "loglikelihood_rolling", ("abc",))
    assert ask(lm, "loglikelihood_rolling", ("abc",)) == want


def test_what_is_missing_or_unknown_is_refused(
    network: OpenMythos, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = partial(harness.TaskManager)  # to list all of the harness's tasks takes it half a minute
    monkeypatch.setattr(harness, "TaskManager", lambda **_: few(include_defaults=False))
    with pytest.raises(InputError, match="tokenizer"):
        LoopedLM(network)
    with pytest.raises(InputError, match="'no_such_task'"):
        evaluate_loops(network, ByteTokenizer(), ["no_such_task"], [1])


def test_numbers_are_what_is_neither_words_nor_spread() -> None:
    said = {"acc,none": 0.5, "acc_stderr,none": "N/A", "alias": "x", "sample_len": 3, "a,b": True}
    assert numbers(said) == {"acc": 0.5}
