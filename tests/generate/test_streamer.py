"""Who watches sees what comes back, and the end in any case."""

import pytest
import torch
from torch import Tensor

from open_mythos.generate.streamer import shown


class Watcher:
    """Keeps everything."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.ended = 0

    def put(self, value: Tensor) -> None:
        assert value.device.type == "cpu"
        self.seen.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended += 1


def test_prompts_then_tokens_then_the_end() -> None:
    watcher, tokens = Watcher(), [torch.tensor([5]), torch.tensor([6])]
    passed = list(shown(iter(tokens), torch.tensor([[1, 2]]), watcher))
    assert [t.tolist() for t in passed] == [[5], [6]]
    assert (watcher.seen, watcher.ended) == ([[1, 2], [5], [6]], 1)


def test_the_end_comes_after_an_error_too() -> None:
    def broken() -> object:
        yield torch.tensor([5])
        raise RuntimeError("no more")

    watcher = Watcher()
    with pytest.raises(RuntimeError, match="no more"):
        list(shown(broken(), torch.tensor([[1]]), watcher))  # type: ignore[arg-type]
    assert (watcher.seen, watcher.ended) == ([[1], [5]], 1)
