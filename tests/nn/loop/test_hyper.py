"""Hyper-connections: what they start as, and their equation written stream by stream."""

import torch

from open_mythos.nn.loop.hyper import HyperConnections


def test_fresh_connections_read_the_mean_and_write_to_every_stream() -> None:
    fresh = HyperConnections(6, 3)
    states, f = torch.randn(2, 4, 3, 6), torch.randn(2, 4, 6)
    flat = states.flatten(-2)
    torch.testing.assert_close(fresh.read(flat), states.mean(-2))
    after = fresh.write(flat, f).unflatten(-1, (3, 6))
    torch.testing.assert_close(after, states + f.unsqueeze(-2))


def test_they_are_the_published_equation() -> None:
    n, dim = 3, 5
    hyper = HyperConnections(dim, n).double()
    with torch.no_grad():
        for p in hyper.parameters():
            p.copy_(torch.randn_like(p))
    states, f = torch.randn(n, dim).double(), torch.randn(dim).double()
    square = states.square().mean(-1, keepdim=True)
    g = states / (square + 1e-6).sqrt() * hyper.norm.weight
    w_a, w_r, w_b = hyper.moved[0], hyper.moved[1:-1], hyper.moved[-1]
    alpha = hyper.alpha + hyper.scale[0] * (g @ w_a).tanh()
    mix = hyper.mix + hyper.scale[0] * (g @ w_r.T).tanh()
    beta = hyper.beta + hyper.scale[1] * (g @ w_b).tanh()
    flat = states.reshape(1, 1, -1)
    torch.testing.assert_close(hyper.read(flat)[0, 0], alpha @ states)
    want = mix.T @ states + torch.outer(beta, f)
    torch.testing.assert_close(hyper.write(flat, f.view(1, 1, -1))[0, 0], want.flatten())


def test_a_permutation_of_equal_streams_changes_nothing() -> None:
    """Streams that start alike and are written alike stay alike: one stream is a plain residual."""
    one, many = HyperConnections(4, 1), HyperConnections(4, 3)
    h, f = torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    single, several = one.write(h, f), many.write(h.repeat(1, 1, 3), f)
    torch.testing.assert_close(several, single.repeat(1, 1, 3))
