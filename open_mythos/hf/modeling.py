"""OpenMythosForCausalLM: the network as transformers wants a model to be."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from open_mythos.checkpoint.exit_file import EXIT_FILE
from open_mythos.checkpoint.files import MANIFEST
from open_mythos.errors import CheckpointError, InputError, did_you_mean
from open_mythos.hf.cache import CACHE_NAME, LoopCache
from open_mythos.hf.card import Story, model_card
from open_mythos.hf.config import OpenMythosConfig
from open_mythos.model.mythos import OpenMythos
from open_mythos.model.output import ForwardOutput
from open_mythos.nn.loop.recurrent import RecurrentBlock
from open_mythos.nn.moe.layer import MoEFFN


CARD = "README.md"
UNWRITTEN = "Model Card for Model ID"  # what transformers calls a card that nobody wrote
# Names of this library's own calls, which would otherwise vanish among what transformers passes.
OWN_WORDS = {"n_loops": "num_loops", "kv_cache": CACHE_NAME, "ids": "input_ids"}


@dataclass
class OpenMythosOutput(CausalLMOutputWithPast):  # type: ignore[misc]
    """What transformers returns, and the record of the pass where it was asked for.

    Attributes:
        ponder_cost: Graves' N + R, with gradient; None with readout "last".
        loops_used: (B, S) int64, loops in which each position took part.
        features: (B, S, dim), what the head reads.
    """

    ponder_cost: Tensor | None = None
    loops_used: Tensor | None = None
    features: Tensor | None = None


class OpenMythosForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """`OpenMythos` behind the calls of transformers; its weights lie under `model.`.

    Attributes:
        model: The network.
        story: What the model card says beyond the config.
    """

    config_class = OpenMythosConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    model_tags: ClassVar[list[str]] = ["open_mythos", "recurrent-depth"]
    _no_split_modules: ClassVar[list[str]] = ["TransformerBlock", "RecurrentBlock"]
    _tied_weights_keys: ClassVar[dict[str, str]] = {"model.head.weight": "model.embed.weight"}
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = ["router_bias"]
    _supports_sdpa = True

    def __init__(self, config: OpenMythosConfig) -> None:
        """Build the network of the config, as `OpenMythos` starts it."""
        super().__init__(config)
        self.model = OpenMythos(config.mythos)
        self.story = Story()
        self.gradient_checkpointing = False
        self.post_init()

    @classmethod
    def of(cls, network: OpenMythos, **kwargs: Any) -> "OpenMythosForCausalLM":
        """A trained network of ours, its weights shared; `kwargs` go to the config."""
        with torch.device("meta"):
            made = cls(OpenMythosConfig.of(network.cfg, **kwargs))
        made.model = network
        made.train(network.training)
        return made

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """The model in a folder or on the hub, whether transformers wrote it or this library.

        Raises:
            CheckpointError: If weights are missing, which transformers would draw at random.
        """
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        if info["missing_keys"]:
            names = sorted(info["missing_keys"])
            raise CheckpointError(
                f"{args[0] if args else 'the checkpoint'} lacks {len(names)} weights of its "
                f"config, {names[0]!r} first; it is damaged or of another network (weights of "
                "open-mythos 0.5.0 are brought over by `open-mythos convert`)"
            )
        if args and (Path(args[0]) / EXIT_FILE).is_file():
            model.model.read_exit(args[0])
        return (model, info) if output_loading_info else model

    # -- the pass --------------------------------------------------------------------------------

    def forward(  # noqa: PLR0913 -- transformers' call form
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: LoopCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        *,
        cache: LoopCache | None = None,
        num_loops: int | Sequence[int] | Tensor | None = None,
        exit: object = None,
        backprop_loops: int | None = None,
        output_loops: bool = False,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> OpenMythosOutput | tuple[Any, ...]:
        """Logits, and the loss of `labels` if there are some.

        Args:
            input_ids: (B, S).
            attention_mask: (B, S) or (B, cached + S), 0 at padding, on either side.
            position_ids: (B, S). Without mask and cache, positions that begin again begin another
                document, which does not see the one before.
            past_key_values: A cache, by the name it had in transformers 5.17.
            inputs_embeds: Refused.
            labels: (B, S), -100 where nothing is asked; shifted here, as everywhere.
            use_cache: Whether keys and values are kept; None is the config's word in evaluation
                mode without labels.
            logits_to_keep: Logits of the last so many positions, 0 being all; or of these.
            cache: The cache, by its name since.
            num_loops: Loops, or one number per row (without a cache); None is the config's.
            exit: How positions leave the loop early (docs/exits.md); None is the config's.
            backprop_loops: Differentiate the last so many loops only.
            output_loops: Whether the output has ponder_cost, loops_used and features.
            return_dict: False for a tuple.
            kwargs: num_items_in_batch and what else the loss takes.

        Raises:
            InputError: If an argument cannot be answered for.
        """
        _refuse(kwargs, inputs_embeds)
        if input_ids is None:
            raise InputError("input_ids are missing; give token ids (batch, sequence)")
        kept = cache if cache is not None else past_key_values
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and labels is None
        if kept is None and use_cache:
            kept = LoopCache()
        ids, mask = input_ids, _told(attention_mask, kept)
        few = logits_to_keep if isinstance(logits_to_keep, int) and logits_to_keep else None
        pick = logits_to_keep if isinstance(logits_to_keep, Tensor) else None
        how: dict[str, Any] = {
            "n_loops": self._loops(num_loops),
            "kv_cache": None if kept is None else kept.open(self.model, *ids.shape),
            "attention_mask": mask,
            "position_ids": position_ids,
            "documents": None if kept is not None else _packed(position_ids, mask),
            "logits_to_keep": few if pick is None else 0,
            "backprop_loops": backprop_loops,
            "exit": self._exit(exit),
        }
        with self._recomputed():
            if output_loops or pick is not None:
                record = self.model(ids, **how, return_output=True)
                logits = (
                    record.logits if pick is None else self.model.head(record.features[:, pick])
                )
            else:
                record, logits = None, self.model(ids, **how)
        loss = None
        if labels is not None:
            size = self.config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=size, **kwargs)
        found = OpenMythosOutput(loss=loss, logits=logits, **{CACHE_NAME: kept})
        _note(found, record if output_loops else None)
        wanted = self.config.return_dict if return_dict is None else return_dict
        return found if wanted else found.to_tuple()

    def _loops(self, asked: int | Sequence[int] | Tensor | None) -> Any:
        if asked is None:
            return self.config.num_loops
        if isinstance(asked, Tensor):  # a column of a batch, which a trainer moved to its device
            return asked.tolist()
        return asked

    def _exit(self, asked: object) -> object:
        """The exit of this pass; the config's own is for evaluation mode, as all exits are."""
        return self.config.exit if asked is None and not self.training else asked

    @contextmanager
    def _recomputed(self) -> Iterator[None]:
        """Keep only what enters each turn of the loop, where gradient checkpointing is on.

        torch's checkpoint without reentry, whatever transformers was told: the other kind passes
        neither records nor keyword arguments.
        """
        if not (self.gradient_checkpointing and self.training and torch.is_grad_enabled()):
            yield
            return
        loop, draws = self.model.recurrent, self.config.dropout > 0.0
        with _turning(loop, draws):
            yield

    # -- generation ------------------------------------------------------------------------------

    def _prepare_cache_for_generation(  # private in transformers, hence the loose signature
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        given = model_kwargs.get(CACHE_NAME)
        kind = generation_config.cache_implementation
        if kind not in (None, "dynamic"):
            raise InputError(
                f"cache_implementation is {kind!r}; this network keeps one slot per layer and "
                "loop, in a cache of its own: leave it out"
            )
        if given is not None and not isinstance(given, LoopCache):
            raise InputError(
                f"{CACHE_NAME} is a {type(given).__name__}; this network needs a LoopCache "
                "(open_mythos.hf.cache), since it has slots for every loop"
            )
        if given is not None:
            given._is_user_defined = True
        elif generation_config.use_cache is not False:
            length = kwargs.get("max_cache_length", args[2] if len(args) > 2 else 0)
            model_kwargs[CACHE_NAME] = LoopCache(expected=int(length))

    # -- embedding -------------------------------------------------------------------------------

    def get_input_embeddings(self) -> nn.Module:
        """The embedding."""
        return self.model.embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another embedding in its place."""
        self.model.embed = value  # type: ignore[assignment]

    def get_output_embeddings(self) -> nn.Module:
        """The head, whose weight is the embedding's."""
        return self.model.head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put another head in its place."""
        self.model.head = new_embeddings  # type: ignore[assignment]

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """The embedding, and with it the head, with more or fewer rows; the config follows."""
        made: nn.Module = super().resize_token_embeddings(*args, **kwargs)
        rows = self.model.embed.num_embeddings
        self.config.vocab_size = self.model.cfg.vocab_size = self.model.head.out_features = rows
        return made

    # -- weights ---------------------------------------------------------------------------------

    def _init_weights(self, module: nn.Module) -> None:
        """Weights start where the network's own constructor puts them; counters start at zero."""
        if isinstance(module, MoEFFN) and not module.load.is_meta:
            module.load.zero_()

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write config, weights and card to a folder, which `OpenMythos.from_pretrained` reads too.

        A card that is there stays. After `register_for_auto_class()` the folder also gets the
        Python files with which it loads where this library is not installed.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        for of_others in (MANIFEST, EXIT_FILE):  # of weights that were written here before
            (folder / of_others).unlink(missing_ok=True)
        if not (folder / CARD).exists():
            (folder / CARD).write_text(self.card(), encoding="utf-8")
        self.model.write_exit(folder)
        if self._auto_class is not None and __name__ == "open_mythos.hf.modeling":
            self.config.auto_map = import_module("open_mythos.hf.export").write_code(folder)
            with _unregistered(type(self)):  # transformers would copy this one file
                super().save_pretrained(save_directory, *args, **kwargs)
            del self.config.auto_map
        else:
            super().save_pretrained(save_directory, *args, **kwargs)

    def card(self) -> str:
        """The text of the model card."""
        return model_card(self.config.mythos, self.story, self.config.num_loops)

    def _upload_modified_files(self, working_dir: Any, *args: Any, **kwargs: Any) -> Any:
        """Before anything is uploaded, put our card where nobody wrote one."""
        path = Path(working_dir) / CARD
        if not path.exists() or UNWRITTEN in path.read_text(encoding="utf-8"):
            path.write_text(self.card(), encoding="utf-8")
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    @torch.no_grad()
    def update_router_bias(self, step_size: float = 0.001) -> Tensor:
        """Balance the experts, once after each optimizer step (`OpenMythos.update_router_bias`)."""
        return self.model.update_router_bias(step_size)


def _refuse(kwargs: dict[str, Any], inputs_embeds: Tensor | None) -> None:
    if inputs_embeds is not None:
        raise InputError("inputs_embeds are not taken; give input_ids, which the loop starts from")
    for name in ("output_attentions", "output_hidden_states"):
        if kwargs.pop(name, False):
            raise InputError(
                f"{name} is not recorded; output_loops=True gives features and loops_used, and "
                "OpenMythos.forward reads out between loops (read_loops)"
            )
    for name in OWN_WORDS.keys() & kwargs.keys():
        raise InputError(f"no argument {name!r} here; {did_you_mean(name, [OWN_WORDS[name]])}")


def _told(attention_mask: Tensor | None, kept: LoopCache | None) -> Tensor | None:
    """The mask, where it hides something: without one attention is quicker."""
    padded = kept is not None and kept.kv is not None and kept.kv.valid is not None
    if attention_mask is None or padded or attention_mask.dim() != 2:
        return attention_mask
    return None if bool(attention_mask.all()) else attention_mask


def _packed(position_ids: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """The document (B, S) of each position, where several were packed into a row."""
    if position_ids is None or mask is not None or position_ids.dim() != 2:
        return None
    first = position_ids[:, :1] - 1
    begins = torch.diff(position_ids, prepend=first) != 1
    return begins.cumsum(-1) if bool(begins.any()) else None


def _note(found: OpenMythosOutput, record: ForwardOutput | None) -> None:
    if record is not None:
        found.ponder_cost = record.ponder_cost
        found.loops_used, found.features = record.loops_used, record.features


@contextmanager
def _turning(loop: RecurrentBlock, draws: bool) -> Iterator[None]:
    """Run each turn of the loop as one that is computed again on the way back."""
    turn = loop.turn

    @wraps(turn)
    def again(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(turn, *args, use_reentrant=False, preserve_rng_state=draws, **kwargs)

    before = vars(loop).get("turn")
    loop.turn = again  # type: ignore[method-assign]
    try:
        yield
    finally:
        if before is None:
            del loop.turn
        else:
            loop.turn = before  # type: ignore[method-assign]


@contextmanager
def _unregistered(kind: type[OpenMythosForCausalLM]) -> Iterator[None]:
    found, config = kind._auto_class, OpenMythosConfig._auto_class
    kind._auto_class = OpenMythosConfig._auto_class = None
    try:
        yield
    finally:
        kind._auto_class, OpenMythosConfig._auto_class = found, config
