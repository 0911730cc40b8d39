"""Models in float64 for engines, and what they say of one request alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.engine.request import Request
from open_mythos.engine.settings import EngineConfig
from open_mythos.generate.params import SamplingParams
from open_mythos.model.mythos import OpenMythos


@pytest.fixture
def build(tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]) -> Any:
    """`build(**changes)`: in float64, so that a tie between two tokens is decided in one way."""

    def make(**changes: Any) -> OpenMythos:
        model: OpenMythos = randomised(OpenMythos(tiny_config(**changes))).double().eval()
        return model

    return make


@pytest.fixture
def ask() -> Any:
    """`ask(prompt, new, n_loops, exit, **sampling)`: a greedy request unless told otherwise."""

    def make(
        prompt: list[int], new: int = 4, n_loops: int | None = 3, exit: Any = None, **sampling: Any
    ) -> Request:
        params = SamplingParams(**{"temperature": 0.0, "max_tokens": new, **sampling})
        return Request(prompt, params, n_loops, exit)

    return make


@pytest.fixture
def alone() -> Any:
    """`alone(model, request)`: the tokens of `model.generate`, greedy, for this request alone."""

    def tokens(model: OpenMythos, request: Request) -> list[int]:
        ids, most = torch.tensor([request.prompt]), request.sampling.max_tokens
        said = model.generate(ids, most, request.n_loops, 0.0, exit=request.exit)  # type: ignore[arg-type]
        found: list[int] = said[0, ids.shape[1] :].tolist()
        return found

    return tokens


@pytest.fixture
def sizes() -> Any:
    """`sizes(**changes)`: an engine of a few blocks."""

    def make(**changes: Any) -> EngineConfig:
        few = {"blocks": 24, "block_size": 4, "rows": 4, "chunk": 8, "n_loops": 4}
        return EngineConfig(**{**few, **changes})

    return make
