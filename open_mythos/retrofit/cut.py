"""Cut: which layers of a pretrained stack come before the loop, in it and behind it."""

from collections.abc import Sequence
from dataclasses import dataclass

from open_mythos.errors import ConfigError


@dataclass(frozen=True)
class Cut:
    """A stack of layers in three parts, and what is left out.

    Attributes:
        prelude: Layers before the loop, from the first on.
        core: Layers that one loop runs.
        coda: Layers behind the loop, up to the last.
        dropped: Layers of the source that the looped network lacks.
    """

    prelude: range
    core: range
    coda: range
    dropped: tuple[int, ...]

    @property
    def kept(self) -> Sequence[int]:
        """The path of one loop through the source."""
        return [*self.prelude, *self.core, *self.coda]


def cut(n_layers: int, prelude: int, core: int, coda: int, core_start: int | None = None) -> Cut:
    """Cut a stack of `n_layers`.

    The core is what stands right before the coda unless told otherwise, so that the early middle
    is dropped (McLeish et al., arXiv 2511.07384).

    Args:
        n_layers: Of the source.
        prelude: Layers before the loop, 0 or more.
        core: Layers of the loop, 1 or more.
        coda: Layers behind the loop, 0 or more.
        core_start: First layer of the core, from 0; None is the last place there is.

    Raises:
        ConfigError: If there are not so many layers, or the core does not lie between the others.
    """
    if prelude < 0 or coda < 0 or core < 1:
        raise ConfigError(
            f"prelude, core, coda are {prelude}, {core}, {coda}; a core has at least 1 layer, the "
            "others 0 or more"
        )
    if prelude + core + coda > n_layers:
        raise ConfigError(
            f"prelude + core + coda is {prelude + core + coda}, the source has {n_layers} layers; "
            "make one of the parts smaller"
        )
    last = n_layers - coda - core
    start = last if core_start is None else core_start
    if not prelude <= start <= last:
        raise ConfigError(
            f"core_start is {start}; with this prelude and coda the core can begin at layer "
            f"{prelude} .. {last}"
        )
    parts = range(prelude), range(start, start + core), range(n_layers - coda, n_layers)
    kept = {layer for part in parts for layer in part}
    return Cut(*parts, tuple(i for i in range(n_layers) if i not in kept))
