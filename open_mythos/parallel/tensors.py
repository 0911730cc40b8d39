"""Heads, hidden widths and the vocabulary divided over a tensor axis; the experts stay whole."""

from torch import Tensor, nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.attention.gqa import GQAttention
from open_mythos.nn.attention.mla import MLAttention
from open_mythos.nn.block import TransformerBlock
from open_mythos.nn.cache import Entries, StaticSlot
from open_mythos.nn.feed_forward import Expert
from open_mythos.nn.fused import FusedLinear, Low
from open_mythos.nn.linear import Linear
from open_mythos.nn.rotary import Rotary
from open_mythos.nn.watched import patched
from open_mythos.parallel.collectives import copied, reduced
from open_mythos.parallel.division import Division
from open_mythos.parallel.mesh import Axis
from open_mythos.parallel.vocabulary import divide_vocabulary


Divisions = dict[str, Division]


class DividedGQA(GQAttention):
    """Grouped-query attention with some of the heads, and the key/value heads that they look at."""

    axis: Axis

    def project(self, x: Tensor, rotary: Rotary) -> tuple[Tensor, Entries]:
        """Queries, keys and values of this rank's heads."""
        return super().project(copied(x, self.axis), rotary)

    def entries(self, x: Tensor, rotary: Rotary) -> Entries:
        """Keys and values of this rank's heads."""
        return super().entries(copied(x, self.axis), rotary)

    def queries(self, x: Tensor, rotary: Rotary) -> Tensor:
        """Queries of this rank's heads."""
        return super().queries(copied(x, self.axis), rotary)

    def mix(self, q: Tensor, seen: Entries, context: AttentionContext) -> Tensor:
        """What all ranks' heads say together."""
        return reduced(super().mix(q, seen, context), self.axis)

    def step(self, x: Tensor, slot: StaticSlot, context: AttentionContext) -> Tensor:
        """What all ranks' heads say to one new position."""
        return reduced(super().step(x, slot, context), self.axis)


class DividedMLA(MLAttention):
    """Latent attention with some of the heads; the latents, and what makes them, are everyone's."""

    axis: Axis

    def _raise(self, q_latent: Tensor, rotary: Rotary) -> Tensor:
        return self._turned(self.q_up(copied(self.q_norm(q_latent), self.axis)), rotary)

    def mix(self, q: Tensor, seen: Entries, context: AttentionContext) -> Tensor:
        """What all ranks' heads say together."""
        shown = {name: copied(entry, self.axis) for name, entry in seen.items()}
        return reduced(super().mix(q, shown, context), self.axis)

    def step(self, x: Tensor, slot: StaticSlot, context: AttentionContext) -> Tensor:
        """What all ranks' heads say to one new position; no gradient passes here."""
        out = super().step(x, slot, context)
        mixed = patched(self.q_norm) or patched(self.kv_norm)  # then it has gone through `mix`
        return out if mixed else reduced(out, self.axis)


class DividedExpert(Expert):
    """A SwiGLU with some of the hidden channels."""

    axis: Axis

    def forward(
        self,
        x: Tensor,
        plus: Tensor | None = None,
        *,
        spare: bool = False,  # noqa: ARG002
        gate_up: Low | None = None,
        down: Low | None = None,
    ) -> Tensor:
        """(..., dim) -> (..., dim), with `plus` (..., dim) added to what all ranks say."""
        assert gate_up is None  # `Degrees.fit` refuses corrections
        assert down is None
        out = reduced(super().forward(copied(x, self.axis)), self.axis)
        return out if plus is None else out + plus


def divide_tensors(model: OpenMythos, axis: Axis) -> Divisions:
    """Leave this rank its part of every attention, dense block, embedding and head, in place.

    Returns:
        How each divided parameter is dealt out, by its name.
    """
    found: Divisions = {}
    loop = model.recurrent
    blocks: list[tuple[str, nn.Module]] = [("recurrent.block", loop.block)]
    stacks = {"prelude": model.prelude, "recurrent.deeper": loop.deeper, "coda": model.coda}
    for stack, members in stacks.items():
        blocks += [(f"{stack}.{i}", block) for i, block in enumerate(members)]
    for name, block in blocks:
        assert isinstance(block, TransformerBlock)
        found |= _attention(f"{name}.attn", block.attn, axis)
        if isinstance(block.ffn, Expert):
            found |= _feed_forward(f"{name}.ffn", block.ffn, axis)
    found |= _vocabulary(model, axis)
    for ffn in loop.mixtures:
        ffn.alike = axis.size
    loop.lockstep = True
    if model.cfg.attn_type == "gqa":  # latents are whole on every rank, and cached so
        model.cfg = with_kv_heads(model.cfg, model.cfg.n_kv_heads // axis.size)
    return found


def with_kv_heads(cfg: MythosConfig, heads: int) -> MythosConfig:
    """The same config for everybody but the caches, which keep only so many key/value heads."""

    class CacheConfig(MythosConfig):
        """A config whose caches hold a rank's part."""

        @property
        def cache_widths(self) -> dict[str, tuple[int, ...]]:
            """What one layer of this rank caches per token."""
            shape = (heads, self.head_dim)
            return {"k": shape, "v": shape}

    return CacheConfig(**cfg.to_dict())


def _attention(name: str, attn: GQAttention | MLAttention, axis: Axis) -> Divisions:
    attn.heads //= axis.size
    if isinstance(attn, MLAttention):
        _become(attn, DividedMLA, axis)
        found = _stacked(f"{name}.q_up", attn.q_up, axis) | _rows(f"{name}.kv_up", attn.kv_up, axis)
    else:
        attn.kv_heads //= axis.size
        _become(attn, DividedGQA, axis)
        found = _stacked(f"{name}.wqkv", attn.wqkv, axis)
    return found | _columns(f"{name}.wo", attn.wo, axis)


def _feed_forward(name: str, ffn: Expert, axis: Axis) -> Divisions:
    _become(ffn, DividedExpert, axis)
    gate_up, down = f"{name}.gate_up", f"{name}.down"
    return _stacked(gate_up, ffn.gate_up, axis) | _columns(down, ffn.down, axis)


def _vocabulary(model: OpenMythos, axis: Axis) -> Divisions:
    division = Division("tensor", 0, (model.embed.num_embeddings,), axis.size, axis.rank)
    weight = _part(model.embed.weight, division)
    divide_vocabulary(model.embed, model.head, weight, axis)
    return {"embed.weight": division}


def _stacked(name: str, module: FusedLinear, axis: Axis) -> Divisions:
    """Some of the outputs of each of the maps that are stacked in one weight."""
    division = Division("tensor", 0, tuple(module.parts.values()), axis.size, axis.rank)
    module.weight = _part(module.weight, division)
    module.parts = {part: width // axis.size for part, width in module.parts.items()}
    return {f"{name}.weight": division}


def _rows(name: str, module: Linear, axis: Axis) -> Divisions:
    """Some of the outputs."""
    division = Division("tensor", 0, (module.out_features,), axis.size, axis.rank)
    module.weight = _part(module.weight, division)
    module.out_features //= axis.size
    return {f"{name}.weight": division}


def _columns(name: str, module: Linear, axis: Axis) -> Divisions:
    """Some of the inputs: what the others contribute comes with the sum."""
    division = Division("tensor", 1, (module.in_features,), axis.size, axis.rank)
    module.weight = _part(module.weight, division)
    module.in_features //= axis.size
    return {f"{name}.weight": division}


def _become(module: nn.Module, kind: type[nn.Module], axis: Axis) -> None:
    module.__class__ = kind
    module.axis = axis  # type: ignore[assignment]


def _part(weight: Tensor, division: Division) -> nn.Parameter:
    return nn.Parameter(division.local(weight.detach()))
