"""The import path of open-mythos 0.5.0. The code lives in open_mythos.model and open_mythos.nn."""

from open_mythos.config.mythos import MythosConfig as MythosConfig
from open_mythos.model.mythos import OpenMythos as OpenMythos
from open_mythos.nn.attention.gqa import GQAttention as GQAttention
from open_mythos.nn.attention.mla import MLAttention as MLAttention
from open_mythos.nn.block import TransformerBlock as TransformerBlock
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
