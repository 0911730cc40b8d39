"""What the plugin cannot hold is refused by the name of the field."""

from types import SimpleNamespace
from typing import Any

import pytest

from open_mythos.errors import ConfigError
from open_mythos.vllm.fit import check_fit, check_start


FITTING = {"attn_type": "gqa", "core_ffn": "dense", "readout": "last"}
ALONE = SimpleNamespace(tensor_parallel_size=1, pipeline_parallel_size=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_type": "mla"},
        {"core_ffn": "moe"},
        {"readout": "act"},
        {"kv": "first"},
        {"kv": "last"},
        {"halted": "freeze"},
        {"head_width": 8},
    ],
)
def test_another_network_is_refused_by_the_field(tiny_config: Any, changes: dict[str, Any]) -> None:
    check_fit(tiny_config(**FITTING))
    ((name, value),) = changes.items()
    with pytest.raises(ConfigError, match=f"{name} is {value!r}; the vLLM plugin takes"):
        check_fit(tiny_config(**{**FITTING, **changes}))


@pytest.mark.parametrize(
    ("exit", "quantised", "ranks", "word"),
    [
        ("kl:0.1", None, ALONE, "exit is 'kl:0.1'"),
        (None, object(), ALONE, "quantization is set"),
        (
            None,
            None,
            SimpleNamespace(tensor_parallel_size=2, pipeline_parallel_size=1),
            "tensor_parallel_size is 2",
        ),
        (
            None,
            None,
            SimpleNamespace(tensor_parallel_size=1, pipeline_parallel_size=4),
            "pipeline_parallel_size is 4",
        ),
    ],
)
def test_what_is_asked_beside_it_is_refused_too(
    exit: Any, quantised: Any, ranks: Any, word: str
) -> None:
    check_start(None, None, ALONE)
    with pytest.raises(ConfigError, match=word):
        check_start(exit, quantised, ranks)
