"""Files of open-mythos 0.5.0: safe reading, and its parameter names mapped to today's."""

import re
import struct
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CheckpointError


# The class that 0.5.0's training checkpoints pickle; resolved to ours, whose fields are a superset.
PICKLED_CONFIG = ("open_mythos.main.MythosConfig", "main.MythosConfig")
TABLES = ("freqs_cis", "freqs_cis_mla")
MARK = "recurrent.block.ffn.router.weight"


def is_legacy(state: Mapping[str, Any]) -> bool:
    """Whether a state dict has the names of open-mythos 0.5.0."""
    return any(".wq.weight" in key or ".q_down.weight" in key for key in state)


def read_legacy(path: Path, *, trusted: bool = False) -> dict[str, Any]:
    """The content of a .pt file: a state dict, or a training checkpoint around one.

    Args:
        path: The file.
        trusted: Unpickle whatever it holds, code included.

    Raises:
        CheckpointError: If the file is missing, damaged, or holds pickled code while not trusted.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    numpy_core = sys.modules["numpy._core.multiarray"]
    allowed: list[Any] = [
        *((MythosConfig, name) for name in PICKLED_CONFIG),
        *(
            (numpy_core._reconstruct, f"numpy.{c}.multiarray._reconstruct")
            for c in ("core", "_core")
        ),
        np.ndarray,
        np.dtype,
        type(np.dtype("uint32")),
    ]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of old pickles, which these files are
            content = torch.load(path, map_location="cpu", weights_only=not trusted)
    except UnpicklingError as error:
        blocked = re.search(r"GLOBAL (\S+)", str(error))
        if trusted or not (blocked or zipfile.is_zipfile(path)):
            raise _unreadable(path, error) from error
        name = blocked.group(1).strip("`") if blocked else "of an unknown kind"
        raise CheckpointError(
            f"{path} holds pickled code ({name}), which could run anything; "
            "if you trust its author, say trusted=True (--trusted)"
        ) from error
    except (
        RuntimeError, EOFError, OSError, LookupError, ValueError, AttributeError, struct.error,
    ) as error:  # fmt: skip
        raise _unreadable(path, error) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict")
    return content


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be read ({type(error).__name__}): it is truncated, damaged, or no file of "
        "open-mythos 0.5.0; use another copy"
    )


def split_legacy(content: dict[str, Any], path: Path) -> tuple[dict[str, Tensor], object | None]:
    """The state dict and, from a training checkpoint, the config inside `content`.

    Raises:
        CheckpointError: If there is no state dict of open-mythos 0.5.0 in it.
    """
    state = content.get("model", content)
    config = content.get("cfg") if state is not content else None
    if not isinstance(state, dict) or MARK not in _plain_names(state):
        raise CheckpointError(f"{path} holds no open-mythos 0.5.0 weights: {MARK!r} is missing")
    return _plain_names(state), config


def _plain_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """Names without what DDP, FSDP1 and torch.compile put in front."""
    wrappers = r"(^|\.)(module|_fsdp_wrapped_module|_orig_mod)(?=\.)"
    return {re.sub(wrappers, "", key).lstrip("."): value for key, value in state.items()}


def modernise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Today's names and layouts for the weights of open-mythos 0.5.0.

    Maps that share an input are stacked, experts too; the rotary tables are dropped.

    Raises:
        CheckpointError: If a weight is missing.
    """
    try:
        return _modernise(state)
    except KeyError as error:
        raise CheckpointError(
            f"the old checkpoint lacks {error.args[0]!r}; it is not whole, use another copy"
        ) from error


def _modernise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    rest = {k: v for k, v in state.items() if k not in TABLES}
    out: dict[str, Tensor] = {}
    for attn in _owners(rest, r"(.*\.attn)\.wo\.weight"):
        if f"{attn}.wq.weight" in rest:
            out[f"{attn}.wqkv.weight"] = _stack_rows(rest, attn, ("wq", "wk", "wv"))
        else:
            out[f"{attn}.down.weight"] = _stack_rows(rest, attn, ("q_down", "kv_down"))
            out[f"{attn}.q_up.weight"] = _stack_rows(rest, attn, ("q_up_nope", "q_up_rope"))
    moe = "recurrent.block.ffn"
    out[f"{moe}.gate_up"], out[f"{moe}.down"] = _stack_experts(rest, f"{moe}.routed_experts")
    shared = _owners(rest, rf"({moe}\.shared_experts\.\d+)\.gate\.weight")
    if shared:
        gates = [rest.pop(f"{s}.gate.weight") for s in shared]
        ups = [rest.pop(f"{s}.up.weight") for s in shared]
        out[f"{moe}.shared.gate_up.weight"] = torch.cat((*gates, *ups))
        out[f"{moe}.shared.down.weight"] = torch.cat(
            [rest.pop(f"{s}.down.weight") for s in shared], dim=1
        )
    for ffn in _owners(rest, r"(.*\.ffn)\.gate\.weight"):
        out[f"{ffn}.gate_up.weight"] = _stack_rows(rest, ffn, ("gate", "up"))
    return {**out, **rest}


def _owners(state: Mapping[str, Tensor], pattern: str) -> list[str]:
    """Modules whose parameter matches, in the order of the numbers in their names."""
    found = {m.group(1) for key in state if (m := re.fullmatch(pattern, key))}
    return sorted(found, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])


def _stack_rows(rest: dict[str, Tensor], owner: str, names: tuple[str, ...]) -> Tensor:
    return torch.cat([rest.pop(f"{owner}.{name}.weight") for name in names])


def _stack_experts(rest: dict[str, Tensor], owner: str) -> tuple[Tensor, Tensor]:
    experts = _owners(rest, rf"({re.escape(owner)}\.\d+)\.gate\.weight")
    if not experts:
        raise CheckpointError(f"the old checkpoint has no {owner}.*")
    gate_up = [
        torch.cat((rest.pop(f"{e}.gate.weight"), rest.pop(f"{e}.up.weight"))).t() for e in experts
    ]
    return torch.stack(gate_up), torch.stack([rest.pop(f"{e}.down.weight").t() for e in experts])


def dense_hidden(state: Mapping[str, Tensor]) -> int | None:
    """The hidden width of the dense blocks in a state dict, today's or 0.5.0's; None without."""
    for block in ("prelude.0", "coda.0"):
        if f"{block}.ffn.down.weight" in state:
            return state[f"{block}.ffn.down.weight"].shape[1]
    return None


def accept_legacy(model: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let `load_state_dict` take a state dict of open-mythos 0.5.0 as it is."""
    if not prefix and is_legacy(state):
        modern = modernise(state)
        found, own = dense_hidden(modern), model.cfg.dense_width
        if found is not None and found != own:
            raise CheckpointError(
                f"the old weights have dense blocks of width {found}, this model {own}; build it "
                f"with MythosConfig(dense_hidden={found})"
            )
        state.clear()
        state.update(modern)
