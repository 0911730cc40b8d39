from collections.abc import Callable
from typing import Any

import pytest

from open_mythos.config.budget import parameters
from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import InputError
from open_mythos.laws.runs import curve_rows, final_row
from open_mythos.model.mythos import OpenMythos


def step(number: int) -> dict[str, Any]:
    return {"kind": "step", "step": number, "tokens": 100 * number}


def evaluation(number: int, **values: float | None) -> dict[str, Any]:
    named = {key.replace("__", "/"): value for key, value in values.items()}
    return {"kind": "eval", "step": number, "values": named}


METRICS = [
    step(1),
    evaluation(1, validation__loss=9.0, validation__loss_at_1=9.5),
    step(2),
    step(3),
    evaluation(
        3,
        validation__loss=2.0,
        validation__loss_at_16=1.75,
        validation__loss_at_4=2.0,
        validation__loss_at_8=None,
        validation__accuracy_at_4=0.5,
        hops_2__loss_at_4=7.0,
    ),
    step(4),
]


def test_a_curve_is_the_last_evaluations() -> None:
    rows = curve_rows("r", METRICS)
    assert [dict(row.values) for row in rows] == [
        {"loops": 4, "loss": 2.0},
        {"loops": 16, "loss": 1.75},
    ]
    assert {row.run for row in rows} == {"r"}
    assert rows[0].place == "the evaluation of r at step 3"
    assert [dict(r.values) for r in curve_rows("r", METRICS, "hops_2")] == [{"loops": 4, "loss": 7}]


def test_a_run_is_one_row_of_what_it_is_and_saw(tiny_config: Callable[..., MythosConfig]) -> None:
    cfg = tiny_config()
    values = final_row("r", METRICS, cfg, 2.5).values
    assert values["loss"] == 2.0
    assert values["tokens"] == 300
    assert values["loops"] == values["mean_loops"] == 2.5
    # Every linear weight of the loop but the experts that a token does not meet; the rest, once.
    model = OpenMythos(cfg)
    idle = (cfg.n_experts - cfg.n_experts_per_tok) * 3 * cfg.dim * cfg.expert_dim
    matrices = [p for n, p in model.recurrent.named_parameters() if "norm" not in n]
    assert values["params_looped"] == sum(p.numel() for p in matrices) - idle
    total = sum(p.numel() for p in model.parameters())
    assert values["params_once"] + values["params_looped"] == total - idle
    assert values["params_once"] + values["params_looped"] == parameters(cfg).active


@pytest.mark.parametrize(
    ("metrics", "judge", "said"),
    [
        ([step(1)], "validation", "run r has no evaluation by 'validation'; it has none at all"),
        (METRICS, "hops_9", "no evaluation by 'hops_9'; it has validation, hops_2"),
        ([step(1), evaluation(1, validation__loss=1.0)], "validation", "looked at one depth"),
    ],
)
def test_a_run_without_a_curve_is_refused(
    metrics: list[dict[str, Any]], judge: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        curve_rows("r", metrics, judge)


def test_a_run_without_a_loss_or_a_step_is_refused(
    tiny_config: Callable[..., MythosConfig],
) -> None:
    with pytest.raises(InputError, match="has no hops_2/loss, but loss_at_4"):
        final_row("r", METRICS, tiny_config(), 2.0, "hops_2")
    with pytest.raises(InputError, match="no step before it"):
        final_row("r", METRICS[1:2], tiny_config(), 2.0)
