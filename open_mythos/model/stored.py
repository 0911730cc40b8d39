"""Stored: a network's way to a folder and back, and what lies beside its weights there."""

from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from open_mythos.checkpoint.exit_file import StoredExit, fingerprint, read_exit, write_exit
from open_mythos.checkpoint.store import load_model, save_model
from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CheckpointError
from open_mythos.model.published import Published
from open_mythos.nn.linear import Linear
from open_mythos.nn.loop.recurrent import RecurrentBlock


class Stored(Published):
    """What a network can do with files.

    Attributes:
        calibrated: The exit that was stored beside the weights, for `exit="calibrated"`.
        calibrated_for: Fingerprint of those weights; None where it was not taken: none is compared.
    """

    head: Linear
    recurrent: RecurrentBlock
    calibrated: StoredExit | None = None
    calibrated_for: str | None = None

    def __init__(self, cfg: MythosConfig) -> None:  # noqa: ARG002 -- what a network is made from
        """Nothing yet; a network adds its layers."""
        super().__init__()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors to `folder`, all or nothing.

        Then its calibrated exit, if the weights are still those that it was measured on.
        """
        save_model(Path(folder), self.cfg, self.state_dict())
        self.write_exit(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> Self:
        """The model that `save_pretrained` wrote, in evaluation mode, with its calibrated exit.

        Raises:
            CheckpointError: If files are missing, damaged, or of another config.
        """
        cfg, state = load_model(Path(folder))
        model = cls.from_state(cfg, state, source=str(folder)).to(device).eval()
        model.read_exit(folder)
        return model

    def read_exit(self, folder: str | Path) -> None:
        """Take the exit that was calibrated for the weights in `folder`, which this network has."""
        self.calibrated, self.calibrated_for = read_exit(folder), None
        state = self.state_dict()
        if self.calibrated is not None and not any(tensor.is_meta for tensor in state.values()):
            self.calibrated_for = fingerprint(state)

    def write_exit(self, folder: str | Path) -> None:
        """Write the calibrated exit beside the weights just written; not if they have changed."""
        if self.calibrated is None:
            return
        if self.calibrated_for in (None, fingerprint(self.state_dict())):
            write_exit(folder, self.calibrated)

    @classmethod
    def from_state(
        cls, cfg: MythosConfig, state: dict[str, Tensor], *, source: str = "the state"
    ) -> Self:
        """A model with the given weights, allocated once.

        Raises:
            CheckpointError: If names or shapes do not fit the config.
        """
        with torch.device("meta"):
            model = cls(cfg)
        try:
            if cfg.tied_head:
                state = {**state, "head.weight": state.get("embed.weight")}  # type: ignore[dict-item]
            model.load_state_dict(state, assign=True)
        except (RuntimeError, AttributeError) as error:
            raise CheckpointError(f"{source} does not fit its config: {error}") from error
        if cfg.tied_head:
            model.head.weight = model.embed.weight
        for ffn in model.recurrent.mixtures:
            ffn.load = torch.zeros(cfg.n_experts, dtype=torch.int64)
            wide = torch.promote_types(ffn.router_bias.dtype, torch.float32)
            ffn.router_bias = ffn.router_bias.to(wide)
        return model
