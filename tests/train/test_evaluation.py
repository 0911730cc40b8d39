from collections.abc import Mapping

import torch
from torch import nn

from open_mythos.train.evaluation import judge


CPU = torch.device("cpu")


class Alone:
    one_rank = True

    def __call__(self, model: nn.Module, step: int) -> Mapping[str, float | str]:
        return {"text": f"after {step}", "draw": float(torch.rand(()))}


def shared(model: nn.Module, step: int) -> dict[str, float]:
    return {"loss": float(model(torch.ones(1)).detach()), "draw": float(torch.rand(()))}


def test_numbers_and_texts_are_told_apart_and_draws_are_given_back() -> None:
    model = nn.Linear(1, 1)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    found = judge({"a": Alone(), "b": shared}, model, 7, CPU)
    assert found.step == 7
    assert found.texts == {"a/text": "after 7"}
    assert found.values.keys() == {"a/draw", "b/loss", "b/draw"}
    assert found.values["a/draw"] == found.values["b/draw"] == expected.item()
    assert torch.equal(torch.rand(1), expected)


def test_what_one_rank_can_do_alone_is_left_to_it() -> None:
    found = judge({"a": Alone(), "b": shared}, nn.Linear(1, 1), 7, CPU, only_shared=True)
    assert found.values.keys() == {"b/loss", "b/draw"}
    assert not found.texts
