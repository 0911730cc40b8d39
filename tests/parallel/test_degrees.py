from itertools import product
from typing import Any

import pytest

from open_mythos.errors import ConfigError
from open_mythos.parallel.degrees import Degrees


def test_the_rest_of_the_world_are_replicas() -> None:
    for data, shard, tensor in product((1, 2, 3), repeat=3):
        world = data * shard * tensor
        full = Degrees(shard=shard, tensor=tensor).over(world)
        assert full == Degrees(data=data, shard=shard, tensor=tensor)
        assert full.over(world) == full
        assert full.readers == data * shard


@pytest.mark.parametrize(
    ("degrees", "world", "words"),
    [
        ({"shard": 2}, 3, r"shard \(2\).*of the 3 ranks.*a multiple of 2 ranks"),
        ({"shard": 4}, 2, r"of the 2 ranks.*a multiple of 4 ranks"),
        ({"data": 2, "shard": 2}, 2, r"data \(2\) x shard \(2\) x tensor \(1\) is 4 of the 2"),
        ({"data": 1}, 2, r"is 1 of the 2 ranks"),
        ({"expert": 3, "shard": 2}, 4, r"expert \(3\) must divide data x shard \(2 x 2 = 4\)"),
        ({"expert": 2, "tensor": 2}, 2, r"expert \(2\) must divide data x shard \(1 x 1 = 1\)"),
    ],
)
def test_what_does_not_multiply_to_the_world_is_refused(
    degrees: dict[str, int], world: int, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        Degrees(**degrees).over(world)


@pytest.mark.parametrize("value", [-1, 0, 1.0, True, "2"])
@pytest.mark.parametrize("name", ["data", "shard", "expert", "tensor"])
def test_a_degree_is_a_positive_whole_number(name: str, value: Any) -> None:
    if name == "data" and value == 0 and not isinstance(value, bool):
        assert Degrees(data=0) == Degrees()
        return
    with pytest.raises(ConfigError, match=rf"parallel\.{name} is {value!r}"):
        Degrees(**{name: value})


@pytest.mark.parametrize(
    ("degrees", "changes", "words"),
    [
        ({"expert": 4}, {}, r"expert \(4\) must divide n_experts \(5\); the remainder is 1"),
        ({"tensor": 3}, {"vocab_size": 39, "dense_hidden": 24}, r"n_heads \(4\)"),
        ({"tensor": 4}, {"vocab_size": 40}, r"tensor \(4\) must divide n_kv_heads \(2\)"),
        ({"tensor": 2}, {}, r"vocab_size \(37\)"),
        ({"tensor": 2}, {"vocab_size": 40, "dense_hidden": 25}, r"dense_hidden \(25\)"),
        (
            {"tensor": 2},
            {"vocab_size": 40, "dropout": 0.1},
            r"dropout is 0.1 with parallel.tensor=2",
        ),
        (
            {"expert": 2},
            {"n_experts": 6, "core_layers": 2},
            r"parallel.expert is 2.*core_layers=2.*use parallel.shard",
        ),
        ({"expert": 2}, {"n_experts": 6, "core_ffn": "dense"}, r"core_ffn='dense'"),
        (
            {"tensor": 2},
            {"vocab_size": 40, "untied_attention": True},
            r"parallel.tensor is 2.*untied_attention=false",
        ),
        ({"tensor": 2}, {"attention_bias": True}, r"attention_bias.*use parallel.shard"),
        ({"tensor": 2}, {"qk_norm": True}, "qk_norm"),
        ({"tensor": 2}, {"tied_head": False}, "an untied head"),
        ({"tensor": 2}, {"core_ffn": "dense", "core_lora_rank": 2}, "core_lora_rank"),
    ],
)
def test_a_network_that_cannot_be_divided_is_refused(
    tiny_config: Any, degrees: dict[str, int], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        Degrees(**degrees).fit(tiny_config(**changes))


def test_what_divides_fits(tiny_config: Any) -> None:
    Degrees(tensor=2).fit(tiny_config(vocab_size=40))
    Degrees(tensor=4).fit(tiny_config(vocab_size=40, attn_type="mla"))  # no heads of keys
    Degrees(expert=5, shard=7).fit(tiny_config())
