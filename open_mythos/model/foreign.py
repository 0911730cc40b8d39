"""One call from a looped model of another project to one of ours."""

from pathlib import Path

from open_mythos.checkpoint.foreign.families import read_foreign
from open_mythos.model.mythos import OpenMythos


def load_foreign(folder: str | Path, family: str | None = None) -> OpenMythos:
    """A model from a checkpoint of Huginn, Ouro or Parcae, in evaluation mode.

    Args:
        folder: Holds their config.json and their weights as safetensors.
        family: "huginn", "ouro" or "parcae"; None is what config.json says.

    Raises:
        CheckpointError: If the equations are not those of our parts, or a weight is missing,
            of another shape, or left over: the key that differs is named (docs/convert.md).
    """
    _, cfg, state = read_foreign(Path(folder), family)
    return OpenMythos.from_state(cfg, state, source=str(folder)).eval()
