import json
import math

from open_mythos.train.records import EvalRecord, StepRecord, to_json


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
