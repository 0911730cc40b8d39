"""The definitions themselves, against sums written out by hand."""

import math

import torch
from torch.nn import functional as F

from open_mythos.ops.reference import attend_reference, experts_reference, rotate_reference


def test_attention_is_a_softmax_weighted_mean_of_what_a_query_may_see() -> None:
    q, k, v = torch.randn(1, 2, 2, 3), torch.randn(1, 4, 1, 3), torch.randn(1, 4, 1, 5)
    out = attend_reference(q, k, v, None, 0.7, causal=True)
    for t in range(2):
        for head in range(2):
            seen = 3 + t  # two queries at the end of four keys
            scores = [0.7 * float(q[0, t, head] @ k[0, s, 0]) for s in range(seen)]
            total = sum(math.exp(x) for x in scores)
            mean = sum(math.exp(x) / total * v[0, s, 0] for s, x in enumerate(scores))
            assert torch.allclose(out[0, t, head], mean, atol=1e-6)


def test_rotation_turns_every_pair_by_its_angle() -> None:
    x, angle = torch.randn(1, 1, 1, 4), torch.tensor([[0.3, 1.1]])
    out = rotate_reference(x, angle.cos(), angle.sin())[0, 0, 0]
    for pair in range(2):
        turned = complex(x[0, 0, 0, 2 * pair], x[0, 0, 0, 2 * pair + 1])
        turned *= complex(math.cos(angle[0, pair]), math.sin(angle[0, pair]))
        assert math.isclose(turned.real, float(out[2 * pair]), abs_tol=1e-6)
        assert math.isclose(turned.imag, float(out[2 * pair + 1]), abs_tol=1e-6)


def test_an_expert_is_a_swiglu_and_choices_add_up() -> None:
    x = torch.randn(1, 3)
    gate_up, down = torch.randn(2, 3, 8), torch.randn(2, 4, 3)
    both = experts_reference(x, torch.tensor([[0, 1]]), torch.tensor([[0.25, 0.75]]), gate_up, down)
    expected = torch.zeros(3)
    for expert, weight in ((0, 0.25), (1, 0.75)):
        gate, up = x[0] @ gate_up[expert][:, :4], x[0] @ gate_up[expert][:, 4:]
        expected += weight * (F.silu(gate) * up) @ down[expert]
    assert torch.allclose(both[0], expected, atol=1e-5)
    assert experts_reference(x[:0], torch.zeros(0, 2).long(), x[:0, :2], gate_up, down).shape == (
        0,
        3,
    )
