"""lm-eval's client of completions scores texts as a pass of the model does."""

from pathlib import Path
from typing import Any

import pytest
import torch

from open_mythos.data.tokenizer import load_tokenizer, save_tokenizer


pytestmark = pytest.mark.filterwarnings("ignore")  # of the client's packages
transformers = pytest.importorskip("transformers")
clients = pytest.importorskip("lm_eval.models.openai_completions", exc_type=ImportError)


def test_likelihoods_and_texts_are_the_models(
    build_model: Any, listening: Any, tmp_path: Path
) -> None:
    from lm_eval.api.instance import Instance

    from open_mythos.serve.service import Served, Service
    from open_mythos.serve.settings import ServeConfig

    tokenizer = load_tokenizer("plays")
    model = build_model(vocab_size=tokenizer.vocab_size)
    save_tokenizer(tokenizer, tmp_path)
    known = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    known.eos_token = known.pad_token = known.convert_ids_to_tokens(tokenizer.eos_id)
    known.save_pretrained(tmp_path / "hf")
    pairs = [("To be, or not", " to be"), ("The king", " is dead"), ("a", " b"), ("x y", " z")]
    with listening(Service(Served("tiny", model, tokenizer), ServeConfig(port=0))) as url:
        client = clients.LocalCompletionsAPI(
            model="tiny", base_url=f"{url}/v1/completions", tokenizer=str(tmp_path / "hf"),
            tokenizer_backend="huggingface", max_length=100, batch_size=3,
        )  # fmt: skip
        asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
        scores = client.loglikelihood(asked, disable_tqdm=True)
        how = {"until": ["\n"], "max_gen_toks": 6, "do_sample": False}
        asked = [Instance("generate_until", {}, (pair[0], how), i) for i, pair in enumerate(pairs)]
        texts = client.generate_until(asked, disable_tqdm=True)
    for (context, rest), (score, greedy), text in zip(pairs, scores, texts, strict=True):
        start, ids = len(tokenizer.encode(context)), tokenizer.encode(context + rest)
        with torch.no_grad():
            found = model(torch.tensor([ids]))[0].log_softmax(-1)[start - 1 : -1]
            loops = model.cfg.max_loop_iters  # as the server; on its own `generate` takes eight
            said = model.generate(torch.tensor([ids[:start]]), 6, loops, temperature=0.0)
        follow = torch.tensor(ids[start:])
        assert score == pytest.approx(found.gather(-1, follow[:, None]).sum().item(), abs=1e-3)
        assert greedy == bool((found.argmax(-1) == follow).all())
        shown = tokenizer.decode(said[0, start:].tolist()).split("\n")[0]
        assert text == shown


@pytest.mark.slow
def test_offline_tasks_have_the_same_scores_through_the_server(
    build_model: Any, listening: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval on the network, and lm-eval on a server of it, item by item and in its table."""
    pytest.importorskip("tenacity", reason="of lm-eval[api]")
    from open_mythos.eval import harness
    from open_mythos.eval.offline_tasks import OFFLINE
    from open_mythos.serve.service import Served, Service
    from open_mythos.serve.settings import ServeConfig

    tokenizer = load_tokenizer("plays")
    model = build_model(vocab_size=tokenizer.vocab_size, max_seq_len=192, readout="last")
    items: list[dict[tuple[str, int], list[Any]]] = []
    whole = harness.simple_evaluate

    def watched(lm: Any, **how: Any) -> Any:
        found = whole(lm, **{**how, "log_samples": True})
        for task, samples in found["samples"].items():
            said = [one["filtered_resps"] for one in sorted(samples, key=lambda one: one["doc_id"])]
            items[-1][task, len(items[-1])] = said
        return found

    monkeypatch.setattr(harness, "simple_evaluate", watched)
    how = {"tasks": list(OFFLINE), "loops": [1, 3], "limit": 3}
    with listening(Service(Served("tiny", model, tokenizer), ServeConfig(port=0))) as url:
        tables = []
        for where in ({"window": model.cfg.max_seq_len - 1}, {"server": url}):
            items.append({})
            tables.append(harness.evaluate_loops(model, tokenizer, **how, **where))
    here, there = tables
    assert list(here.rows()) != []
    for (task, metric, values), (_, _, served) in zip(here.rows(), there.rows(), strict=True):
        assert served == pytest.approx(values, rel=1e-4), (task, metric)
    assert items[0].keys() == items[1].keys()
    for key, said in items[0].items():
        assert _flat(items[1][key]) == pytest.approx(_flat(said), rel=1e-4), key


def _flat(said: Any) -> list[Any]:
    """Numbers and texts of nested answers, texts as their code points."""
    if isinstance(said, (list, tuple)):
        return [part for one in said for part in _flat(one)]
    return [float(ord(c)) for c in said] if isinstance(said, str) else [float(said)]
