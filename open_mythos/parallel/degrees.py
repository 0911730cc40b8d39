"""Degrees: over how many ranks each thing is divided, checked against the world and the network."""

from dataclasses import dataclass, fields, replace

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Degrees:
    """The ranks of a run as a product: world = data x shard x tensor.

    Attributes:
        data: Groups of ranks that hold the whole training state each (replicas); 0 is as many as
            the other two leave.
        shard: Ranks of such a group over which weights, gradients and optimizer state are divided
            (FSDP); each of them reads rows of its own.
        expert: Ranks over which the routed experts are divided, taken out of the data x shard
            ranks that read rows: tokens travel to their experts and back.
        tensor: Ranks that share the same rows, and divide the heads, hidden widths and vocabulary
            of one network among them.
    """

    data: int = 0
    shard: int = 1
    expert: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "data" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"parallel.{field.name} is {value!r}; it must be a whole number of at least "
                    f"{least}"
                )

    @property
    def readers(self) -> int:
        """Ranks that read rows of their own."""
        return self.data * self.shard

    def over(self, world: int) -> "Degrees":
        """The same with `data` filled in, for a run of `world` ranks.

        Raises:
            ConfigError: If the product is not the world, or the experts do not fit in it.
        """
        product = self.shard * self.tensor
        full = replace(self, data=self.data or world // product)
        if full.readers * full.tensor != world or not full.data:
            asked = f"parallel.data ({self.data or 'the rest'}) x shard ({self.shard})"
            found = "no whole number of groups" if not self.data else str(self.data * product)
            raise ConfigError(
                f"{asked} x tensor ({self.tensor}) is {found} of the {world} ranks that were "
                f"started; start a multiple of {product} ranks (torchrun --nproc-per-node), or "
                "change the degrees; parallel.data=0 takes what the others leave"
            )
        if full.readers % full.expert:
            raise ConfigError(
                f"parallel.expert ({full.expert}) must divide data x shard ({full.data} x "
                f"{full.shard} = {full.readers}), the ranks that read rows"
            )
        return full

    def fit(self, cfg: MythosConfig) -> None:
        """Refuse a network that these degrees cannot divide evenly.

        Raises:
            ConfigError: Naming the size, the degree and the remainder.
        """
        if cfg.n_experts % self.expert:
            raise ConfigError(_uneven("expert", self.expert, "n_experts", cfg.n_experts))
        if self.expert > 1 and (cfg.core_ffn == "dense" or cfg.core_layers > 1):
            raise ConfigError(
                f"parallel.expert is {self.expert}: experts are dealt out of a core of one layer "
                f"with experts, not of core_layers={cfg.core_layers} with "
                f"core_ffn={cfg.core_ffn!r}; use parallel.shard"
            )
        if self.tensor == 1:
            return
        if cfg.untied_attention and cfg.max_loop_iters > 1:
            raise ConfigError(
                f"parallel.tensor is {self.tensor}: heads are divided of attention that all loops "
                "share; set model.untied_attention=false, or use parallel.shard"
            )
        whole = {"attention_bias": cfg.attention_bias, "qk_norm": cfg.qk_norm}
        whole |= {"an untied head": not cfg.tied_head, "core_lora_rank": cfg.core_lora_rank > 0}
        for name, there in whole.items():
            if there:
                raise ConfigError(
                    f"parallel.tensor is {self.tensor}, but the network has {name}, which is not "
                    "divided over ranks; use parallel.shard"
                )
        sizes = {"n_heads": cfg.n_heads, "vocab_size": cfg.vocab_size}
        sizes["dense_hidden"] = cfg.dense_width
        if cfg.attn_type == "gqa":
            sizes["n_kv_heads"] = cfg.n_kv_heads
        for name, size in sizes.items():
            if size % self.tensor:
                raise ConfigError(_uneven("tensor", self.tensor, name, size))
        if cfg.dropout:
            raise ConfigError(
                f"dropout is {cfg.dropout} with parallel.tensor={self.tensor}: ranks that share "
                "rows would drop different channels of them; set the one to 0 or the other to 1"
            )


def _uneven(degree: str, ranks: int, name: str, size: int) -> str:
    return (
        f"parallel.{degree} ({ranks}) must divide {name} ({size}); the remainder is "
        f"{size % ranks}: change the one or the other"
    )
