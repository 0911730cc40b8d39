"""Corrections of folded layers are the best of their rank, by the singular values left out."""

from typing import get_args

import pytest
import torch

from open_mythos.errors import ConfigError
from open_mythos.retrofit.fold import MAPS, Shared, best_of_rank, check_shared, fold_layer


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (6, 6)])
def test_the_error_is_what_the_discarded_singular_values_say(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, dtype=torch.float64)
    values = torch.linalg.svdvals(matrices)
    errors = []
    for rank in range(1, 9):
        down, up = best_of_rank(matrices, rank)
        assert down.shape[1] == up.shape[2] == min(rank, *shape)
        errors.append((matrices - up @ down).square().sum((1, 2)))
        torch.testing.assert_close(errors[-1], values[:, rank:].square().sum(1))
    falling = torch.stack(errors)
    assert (falling[1:] <= falling[:-1] + 1e-12).all()
    assert torch.equal(up @ down, matrices)  # full rank: not one bit is lost


def test_where_nothing_is_missing_a_correction_can_still_learn() -> None:
    matrices = torch.randn(2, 5, 8)
    matrices[0] = 0.0
    down, up = best_of_rank(matrices, 2)
    assert not (up[0] @ down[0]).any()
    assert up[0].norm(dim=0).gt(1e-3).all()
    nothing = best_of_rank(torch.zeros(2, 5, 8), 5)
    assert not (nothing[1] @ nothing[0]).any()


def block(scale: float) -> dict[str, torch.Tensor]:
    shapes = {"attn.wqkv.weight": (8, 4), "attn.wo.weight": (4, 4)}
    shapes |= {"ffn.gate_up.weight": (12, 4), "ffn.down.weight": (4, 6)}
    found = {name: scale * torch.randn(shape) for name, shape in shapes.items()}
    return found | {f"{n}_norm.weight": 1 + 0.3 * torch.randn(4) for n in ("attn", "ffn")}


@pytest.mark.parametrize("shared", get_args(Shared))
def test_at_full_rank_every_loop_has_its_layers_maps(shared: Shared) -> None:
    layers = [block(1.0), block(2.0), block(0.5)]
    core, tables = fold_layer(layers, shared, rank=12, place=1.0)
    x = torch.randn(5, 4)
    for t, layer in enumerate(layers):
        for name, key in MAPS.items():
            found = core[key] + tables[f"{name}_up"][t] @ tables[f"{name}_down"][t]
            gain = {"wqkv": "attn_norm.weight", "gate_up": "ffn_norm.weight"}.get(name)
            if gain is None:
                torch.testing.assert_close(found, layer[key])
            else:
                read = x * layer[gain]
                torch.testing.assert_close(x * core[gain] @ found.T, read @ layer[key].T)


def test_the_core_is_what_was_asked_for() -> None:
    layers = [block(1.0), block(1.0), block(1.0)]
    key = "attn.wo.weight"  # no gain before it

    def core(shared: Shared, place: float = 0.0) -> torch.Tensor:
        found, tables = fold_layer(layers, shared, rank=0, place=place)
        assert not tables
        return found[key]

    torch.testing.assert_close(core("average"), sum(layer[key] for layer in layers) / 3)
    assert torch.equal(core("first"), layers[0][key])
    assert torch.equal(core("last"), layers[2][key])
    picked = [core("step", place) for place in (0.0, 0.5, 1.0)]
    assert all(torch.equal(a, layer[key]) for a, layer in zip(picked, layers, strict=True))


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"averge.*average"):
        check_shared("averge")
