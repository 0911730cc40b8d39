import json
import math
from dataclasses import asdict, fields

from open_mythos.train.records import MEASURED, EvalRecord, StepRecord, timeless, to_json


def step(**changes: float) -> StepRecord:
    values = {
        "step": 3,
        "loss": 0.1 + 0.2,
        "accuracy": 0.5,
        "lr": 1e-3,
        "grad_norm": 2.0,
        "n_loops": 4,
        "mean_loops": 3.5,
        "tokens": 10,
        "tokens_per_second": 1.0,
    }
    return StepRecord(**{**values, **changes})  # type: ignore[arg-type]


def test_a_step_is_a_line_of_strict_json_that_keeps_every_bit() -> None:
    line = json.dumps(to_json(step()), allow_nan=False)
    back = json.loads(line)
    assert back.pop("kind") == "step"
    assert StepRecord(**back) == step()


def test_numbers_that_json_lacks_become_null_at_any_depth() -> None:
    record = EvalRecord(step=1, values={"a": math.nan, "b": 1.5})
    assert to_json(record) == {"kind": "eval", "step": 1, "values": {"a": None, "b": 1.5}}
    assert to_json(step(loss=math.inf))["loss"] is None


def test_texts_are_kept_where_there_are_any() -> None:
    record = EvalRecord(step=1, values={}, texts={"samples/1": "a\nb"})
    assert json.loads(json.dumps(to_json(record)))["texts"] == {"samples/1": "a\nb"}


def test_what_a_machine_took_is_told_apart_from_what_was_learnt() -> None:
    assert set(MEASURED) < {f.name for f in fields(StepRecord)}
    one, two = step(), step(tokens_per_second=7.0, seconds=2.0)
    assert one != two
    assert timeless(asdict(one)) == timeless(asdict(two))
    assert timeless(asdict(one)) != timeless(asdict(step(loss=1.0)))
