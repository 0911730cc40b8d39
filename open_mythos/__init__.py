"""OpenMythos: a recurrent-depth transformer, to read, to train and to take apart.

The public names load on first use, so that `import open_mythos` costs nothing and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from open_mythos.config.mythos import MythosConfig as MythosConfig
    from open_mythos.config.presets import (
        mythos_1b as mythos_1b,
        mythos_1t as mythos_1t,
        mythos_3b as mythos_3b,
        mythos_10b as mythos_10b,
        mythos_50b as mythos_50b,
        mythos_100b as mythos_100b,
        mythos_500b as mythos_500b,
        mythos_mini as mythos_mini,
        mythos_nano as mythos_nano,
        mythos_small as mythos_small,
    )
    from open_mythos.data.tokenizer import MythosTokenizer as MythosTokenizer
    from open_mythos.engine.engine import Engine as Engine
    from open_mythos.engine.settings import EngineConfig as EngineConfig
    from open_mythos.generate.params import SamplingParams as SamplingParams
    from open_mythos.generate.text import stream_text as stream_text
    from open_mythos.model.foreign import load_foreign as load_foreign
    from open_mythos.model.legacy import load_legacy as load_legacy
    from open_mythos.model.mythos import OpenMythos as OpenMythos
    from open_mythos.model.output import ForwardOutput as ForwardOutput
    from open_mythos.nn.attention.gqa import GQAttention as GQAttention
    from open_mythos.nn.attention.mla import MLAttention as MLAttention
    from open_mythos.nn.block import TransformerBlock as TransformerBlock
    from open_mythos.nn.cache import KVCache as KVCache
    from open_mythos.nn.feed_forward import Expert as Expert
    from open_mythos.nn.loop.adapter import (
        LoRAAdapter as LoRAAdapter,
        loop_index_embedding as loop_index_embedding,
    )
    from open_mythos.nn.loop.halting import ACTHalting as ACTHalting
    from open_mythos.nn.loop.injection import LTIInjection as LTIInjection
    from open_mythos.nn.loop.recurrent import RecurrentBlock as RecurrentBlock
    from open_mythos.nn.moe.layer import MoEFFN as MoEFFN
    from open_mythos.nn.norm import RMSNorm as RMSNorm
    from open_mythos.nn.rotary import (
        apply_rope as apply_rope,
        precompute_rope_freqs as precompute_rope_freqs,
    )

__version__ = "0.1.0"

_HOME = {
    "OpenMythos": "model.mythos",
    "MythosConfig": "config.mythos",
    "ForwardOutput": "model.output",
    "KVCache": "nn.cache",
    "load_foreign": "model.foreign",
    "load_legacy": "model.legacy",
    "MythosTokenizer": "data.tokenizer",
    "SamplingParams": "generate.params",
    "stream_text": "generate.text",
    "Engine": "engine.engine",
    "EngineConfig": "engine.settings",
    "RMSNorm": "nn.norm",
    "GQAttention": "nn.attention.gqa",
    "MLAttention": "nn.attention.mla",
    "Expert": "nn.feed_forward",
    "MoEFFN": "nn.moe.layer",
    "LoRAAdapter": "nn.loop.adapter",
    "loop_index_embedding": "nn.loop.adapter",
    "LTIInjection": "nn.loop.injection",
    "ACTHalting": "nn.loop.halting",
    "RecurrentBlock": "nn.loop.recurrent",
    "TransformerBlock": "nn.block",
    "precompute_rope_freqs": "nn.rotary",
    "apply_rope": "nn.rotary",
    "mythos_1b": "config.presets",
    "mythos_3b": "config.presets",
    "mythos_10b": "config.presets",
    "mythos_50b": "config.presets",
    "mythos_100b": "config.presets",
    "mythos_500b": "config.presets",
    "mythos_1t": "config.presets",
    "mythos_mini": "config.presets",
    "mythos_nano": "config.presets",
    "mythos_small": "config.presets",
}

__all__ = [
    "__version__",
    "OpenMythos",
    "MythosConfig",
    "ForwardOutput",
    "KVCache",
    "load_foreign",
    "load_legacy",
    "MythosTokenizer",
    "SamplingParams",
    "stream_text",
    "Engine",
    "EngineConfig",
    "RMSNorm",
    "GQAttention",
    "MLAttention",
    "Expert",
    "MoEFFN",
    "LoRAAdapter",
    "loop_index_embedding",
    "LTIInjection",
    "ACTHalting",
    "RecurrentBlock",
    "TransformerBlock",
    "precompute_rope_freqs",
    "apply_rope",
    "mythos_1b",
    "mythos_3b",
    "mythos_10b",
    "mythos_50b",
    "mythos_100b",
    "mythos_500b",
    "mythos_1t",
    "mythos_mini",
    "mythos_nano",
    "mythos_small",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
