"""Sizes are what results say they are."""

import pytest

from open_mythos.bench.sizes import SIZES, size
from open_mythos.config.budget import parameters
from open_mythos.errors import InputError


@pytest.mark.parametrize("name", SIZES)
def test_a_size_describes_a_network_with_either_attention(name: str, attn_type: str) -> None:
    found = size(name)
    cfg = found.config(attn_type, max_loop_iters=found.loops)
    assert found.name == name
    assert cfg.attn_type == attn_type
    assert cfg.max_loop_iters == found.loops
    assert found.seq_len <= cfg.max_seq_len
    assert found.context < cfg.max_seq_len


def test_config_r_has_119_million_parameters() -> None:
    assert parameters(size("R").config("gqa")).total == pytest.approx(119.3e6, rel=0.005)
    assert parameters(size("R").config("mla")).total == pytest.approx(122.1e6, rel=0.005)


@pytest.mark.parametrize("dim", [256, 512])
def test_the_cpu_sizes_are_those_of_the_task(dim: int) -> None:
    found = size("cpu" if dim == 256 else f"cpu-{dim}")
    assert (found.model.dim, found.model.n_experts, found.loops) == (dim, 16, 4)


def test_an_unknown_size_is_refused_with_a_hint() -> None:
    with pytest.raises(InputError, match="did you mean 'tiny'"):
        size("tine")
