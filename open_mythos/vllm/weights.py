"""Weights of an exported folder, name by name, into the network that vLLM made."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from open_mythos.errors import CheckpointError


# What transformers puts before the names of a network that a class of its own holds.
PREFIX = "model."


def load_into(
    network: nn.Module, weights: Iterable[tuple[str, Tensor]], *, tied_head: bool
) -> set[str]:
    """Copy tensors of a folder, of transformers' kind or our own, into a network.

    Args:
        network: With parameters of the sizes that the config says.
        weights: Names and tensors, in any order.
        tied_head: Whether the head is the embedding's table, which a folder holds once.

    Returns:
        The network's names, as it spells them, of all that was given a value.

    Raises:
        CheckpointError: If a name is unknown, a shape differs, or a parameter was not there.
    """
    room = {**dict(network.named_buffers()), **dict(network.named_parameters())}
    waiting = {name for name, _ in network.named_parameters()}
    for name, tensor in weights:
        own = name.removeprefix(PREFIX)
        if tied_head and own == "head.weight":
            continue
        if own not in room:
            raise CheckpointError(f"the folder has {name}, which the network does not")
        if room[own].shape != tensor.shape:
            raise CheckpointError(
                f"{name} has shape {tuple(tensor.shape)}, the network's {tuple(room[own].shape)}"
            )
        with torch.no_grad():
            room[own].copy_(tensor)
        waiting.discard(own)
    if waiting:
        raise CheckpointError(f"the folder lacks {', '.join(sorted(waiting))}")
    return set(dict(network.named_parameters()))
