import pytest
import torch

from open_mythos.kernels.few_routes import TILE, route_few, tiles_for
from open_mythos.ops.routing import route_plain


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# One launch for all, or one for the rows and one for the plan.
WAYS = {"one": 2**30, "two": 0}


def draw(seed, n, experts):
    g = torch.Generator().manual_seed(seed)
    logits, bias = torch.randn(n, experts, generator=g), torch.randn(experts, generator=g)
    return logits.to(DEVICE), bias.to(DEVICE)


def distance(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


def assert_plan(got, k, experts):
    """Every choice stands in exactly one slot, in a tile of its expert, experts ascending."""
    flat = got.ids.flatten().tolist()
    order, last = [], -1
    counts = got.tile_count.tolist()
    used = sum(count > 0 for count in counts)
    assert all(counts[:used])
    assert got.tile_count.shape[0] == tiles_for(len(flat), experts)
    for tile in range(used):
        expert = int(got.tile_expert[tile])
        own = got.slots[tile * TILE : tile * TILE + counts[tile]].tolist()
        assert [flat[c] for c in own] == [expert] * len(own)
        assert expert >= last
        order, last = order + own, expert
    assert order == torch.tensor(flat).argsort(stable=True).tolist()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("n", "experts", "k"),
    [(1, 8, 2), (3, 5, 1), (17, 5, 5), (64, 32, 4), (5, 40, 8), (9, 20, 4), (130, 16, 2)],
)
def test_routes_are_those_of_the_plain_router(n, experts, k, way):
    logits, bias = draw(n, n, experts)
    got, want = route_few(logits, bias, k, WAYS[way]), route_plain(logits, bias, k)
    assert torch.equal(got.ids, want.ids)
    assert torch.equal(got.load, want.load)
    assert distance(got.weights, want.weights.double()) < 1e-6
    assert_plan(got, k, experts)


@pytest.mark.parametrize("way", WAYS)
def test_ties_go_to_the_lower_expert_and_crowds_fill_several_tiles(way):
    logits, bias = torch.zeros(35, 6, device=DEVICE), torch.zeros(6, device=DEVICE)
    bias[4] = 1.0
    got = route_few(logits, bias, 3, WAYS[way])
    assert got.ids.tolist() == [[4, 0, 1]] * 35
    assert got.load.tolist() == [35, 35, 0, 0, 35, 0]
    assert got.tile_count.tolist()[:9] == [16, 16, 3] * 3
    assert not got.tile_count[9:].any()
    assert_plan(got, 3, 6)


def test_bias_picks_and_never_weighs():
    logits, bias = draw(3, 5, 6)
    few, every = route_few(logits, bias, 6), route_few(logits, torch.zeros_like(bias), 6)
    back, straight = (torch.zeros_like(logits).scatter(1, r.ids, r.weights) for r in (few, every))
    assert not torch.equal(few.ids, every.ids)
    assert torch.allclose(back, straight)
    assert torch.allclose(back, logits.softmax(1), atol=1e-6)


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, in the interpreter
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), float("inf")])
def test_scores_that_are_no_numbers_still_give_experts_that_exist(bad, way):
    logits, bias = draw(4, 3, 5)
    logits[1] = bad
    got = route_few(logits, bias, 2, WAYS[way])
    want = route_few(logits[[0, 2]], bias, 2, WAYS[way])
    assert all(len(set(row)) == 2 and set(row) <= set(range(5)) for row in got.ids.tolist())
    assert torch.equal(got.ids[[0, 2]], want.ids)
    assert torch.equal(got.weights[[0, 2]], want.weights)


@pytest.mark.parametrize(("choices", "experts", "most"), [(4, 32, 4), (256, 32, 46), (33, 1, 3)])
def test_tiles_suffice(choices, experts, most):
    assert tiles_for(choices, experts) == most
    # The worst case: all experts but one hold one row each.
    alone = min(experts, choices) - 1
    assert alone + -(-(choices - alone) // TILE) <= most
