"""Our scores of the offline tasks are those of the scorers on the tasks' items."""

from typing import Any

import pytest

from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.errors import InputError
from open_mythos.eval import offline_tasks
from open_mythos.eval.bits_per_byte import score_texts
from open_mythos.eval.choices import score_choices
from open_mythos.eval.completion import completions
from open_mythos.eval.offline_scores import score_offline
from open_mythos.eval.offline_tasks import OfflineTask, Prompt, step_questions
from open_mythos.model.mythos import OpenMythos


def test_each_kind_is_scored_at_each_depth(
    tiny_config: Any, randomised: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = randomised(OpenMythos(tiny_config(vocab_size=257, max_seq_len=128))).eval()
    words, texts = ByteTokenizer(), ["To be.", "Or not.", "Never asked."]
    prompts = [Prompt("1 + 1 =", "x"), Prompt("2 + 2 =", "y")]
    said = completions(model, words, [p.text for p in prompts], ["\n"], max_new_tokens=8, n_loops=1)
    prompts[0] = Prompt(prompts[0].text, said[0].strip())
    tasks = {"t": ("texts", texts), "c": ("choices", step_questions()), "a": ("answers", prompts)}
    made = {n: OfflineTask(n, kind, lambda x=x: x) for n, (kind, x) in tasks.items()}  # type: ignore[arg-type, misc]
    monkeypatch.setattr(offline_tasks, "OFFLINE", made)
    table = score_offline(model, words, ["t", "c", "a"], [1, 3], limit=2)
    for n in (1, 3):
        bits = score_texts(model, words, texts[:2], n).bits_per_byte
        assert table.scores["t"]["bits_per_byte"][n] == bits
        choice = score_choices(model, words, step_questions()[:2], n)
        assert table.scores["c"]["acc"][n] == choice.accuracy
        assert table.scores["c"]["acc_norm"][n] == choice.accuracy_per_character
    assert table.scores["a"]["exact_match"][1] >= 0.5
    with pytest.raises(InputError, match="'b'"):
        score_offline(model, words, ["b"], [1])
