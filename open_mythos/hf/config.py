"""OpenMythosConfig: a MythosConfig as transformers keeps one, and what generation starts from."""

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from open_mythos.config.mythos import FIELDS, MythosConfig
from open_mythos.errors import ConfigError


MODEL_TYPE = "open_mythos"
NATIVE = ("schema_version", "architecture", "torch_dtype")  # what our own config.json says beside


class OpenMythosConfig(PreTrainedConfig):  # type: ignore[misc]
    """Every field of `MythosConfig`, flat, under its own name and under the usual ones.

    Also reads what this library's own `save_pretrained` writes, whose fields lie in a table
    `config`.

    Attributes:
        num_loops: Loops of a pass that names none; None is max_loop_iters.
        exit: The exit of a pass in evaluation mode that names none; None runs every loop.
        use_cache: Whether a pass in evaluation mode keeps keys and values unless told otherwise.
    """

    model_type = MODEL_TYPE
    has_no_defaults_at_init = True  # every field goes into config.json, whatever its default
    keys_to_ignore_at_inference = ("past_key_values", "cache")
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "dim",
        "num_attention_heads": "n_heads",
        "num_key_value_heads": "n_kv_heads",
        "max_position_embeddings": "max_seq_len",
        "intermediate_size": "dense_width",
        "initializer_range": "init_std",
    }

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        *,
        num_loops: int | None = None,
        exit: str | None = None,
        use_cache: bool = True,
        **kwargs: Any,
    ) -> None:
        """Check the fields in `kwargs` and in the table `config`; the rest is transformers' own.

        Raises:
            ConfigError: If they describe no network, or contradict one another.
        """
        named = {self.attribute_map.get(name, name): value for name, value in kwargs.items()}
        fields = {**(config or {}), **{k: named.pop(k) for k in FIELDS if k in named}}
        for name, value in MythosConfig.from_dict(fields).to_dict().items():
            setattr(self, name, value)
        self.num_loops, self.exit, self.use_cache = num_loops, exit, use_cache
        tied = named.pop("tie_word_embeddings", self.tied_head)
        if tied != self.tied_head:
            raise ConfigError(
                f"tie_word_embeddings is {tied}, but tied_head, which decides whether this "
                f"network's head is its embedding, is {self.tied_head}: leave the former out"
            )
        for name in (*NATIVE, "dense_width"):
            named.pop(name, None)
        super().__init__(**named)
        self.tie_word_embeddings = self.tied_head

    @classmethod
    def of(cls, cfg: MythosConfig, **kwargs: Any) -> "OpenMythosConfig":
        """The config of a network of ours."""
        return cls(**cfg.to_dict(), **kwargs)

    @property
    def mythos(self) -> MythosConfig:
        """The network's own config, checked."""
        return MythosConfig(**{name: getattr(self, name) for name in FIELDS})

    @property
    def dense_width(self) -> int:
        """Hidden width of the dense blocks."""
        return self.mythos.dense_width

    @property
    def num_hidden_layers(self) -> int:
        """Layers that a token passes, those of the core once per loop: the slots of a cache."""
        loops = self.num_loops or self.max_loop_iters
        return int(self.prelude_layers + loops * self.core_layers + self.coda_layers)
