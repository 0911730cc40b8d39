"""What lm-eval's client sends to a server of ours, and what it reads of the answers."""

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest

from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.errors import InputError
from open_mythos.eval.likelihood import rolling


pytest.importorskip("lm_eval", reason="lm-eval, of the extra [eval]")
pytest.importorskip("tenacity", reason="of lm-eval[api]")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the harness and what it imports
served = import_module("open_mythos.eval.served")
WORDS = ByteTokenizer()


def client(**how: Any) -> Any:
    return served.ServedLM("http://there:1/v1/", "tiny", WORDS, 8, **how)


def test_every_request_names_the_loops_and_a_scored_prompt_has_no_new_token() -> None:
    lm = client(loops=3, exit="kl:0.1")
    assert lm.base_url == "http://there:1/v1/completions"
    scored = lm._create_payload([[1, 2]], generate=False)
    said = lm._create_payload([[1]], generate=True, gen_kwargs={"until": ["\n"], "max_gen_toks": 5})
    for asked in (scored, said):
        assert (asked["num_loops"], asked["exit"], asked["model"]) == (3, "kl:0.1", "tiny")
    assert (scored["max_tokens"], scored["echo"], scored["prompt"]) == (0, True, [[1, 2]])
    assert (said["max_tokens"], said["stop"]) == (5, ["\n"])
    assert "num_loops" not in client()._create_payload([[1]], generate=False)


def test_what_follows_a_context_is_read_to_the_last_token() -> None:
    told = {"token_logprobs": [None, -1.0, -0.5, -0.25],
            "top_logprobs": [None, {"a": -0.1}, {"b": -0.5}, {"c": -0.25}]}  # fmt: skip
    answer = {"choices": [{"index": 1, "logprobs": told}, {"index": 0, "logprobs": told}]}
    assert served.ServedLM.parse_logprobs(answer, ctxlens=[1, 2]) == [(-1.75, False), (-0.75, True)]


def test_a_long_text_goes_in_windows_that_fit_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, seen = client(), []

    def scored(pairs: list[Any], **_: Any) -> list[tuple[float, bool]]:
        seen.extend(pairs)
        return [(-float(len(rest)), True) for _, _, rest in pairs]

    monkeypatch.setattr(lm, "_loglikelihood_tokens", scored)
    texts = ["a longer text than that", "b"]
    found = lm.loglikelihood_rolling([SimpleNamespace(args=(text,)) for text in texts])
    assert found == [-23.0, -1.0]  # every token once
    assert all(len(context) + len(rest) <= 8 for _, context, rest in seen)
    assert [pair[1:] for pair in seen[:-1]] == list(rolling(WORDS.encode(texts[0]), 256, 7))


def test_nobody_at_an_address_is_told_so() -> None:
    with pytest.raises(InputError, match="open-mythos serve"):
        served.served_name("http://127.0.0.1:9")
