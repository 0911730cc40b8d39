"""Tiny models and one seed for every test."""

import gc
import os
import sys
import zlib
from collections.abc import Callable
from functools import wraps
from itertools import combinations
from typing import Any, TypeVar

import hypothesis
import numpy as np
import pytest
import torch

from open_mythos.config.mythos import MythosConfig


torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined, hence before any import
hypothesis.settings.register_profile(
    "tiny",
    max_examples=20,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
    ],
)
hypothesis.settings.load_profile("tiny")

TINY: dict[str, Any] = {
    "vocab_size": 37,
    "dim": 16,
    "n_heads": 4,
    "n_kv_heads": 2,
    "max_seq_len": 32,
    "max_loop_iters": 3,
    "prelude_layers": 1,
    "coda_layers": 1,
    "attn_type": "gqa",
    "kv_lora_rank": 8,
    "q_lora_rank": 12,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 5,
    "n_experts": 5,
    "n_shared_experts": 1,
    "n_experts_per_tok": 2,
    "expert_dim": 6,
    "act_threshold": 0.8,  # with random halting some positions cross it early and some never do
    "lora_rank": 3,
    "max_output_tokens": 16,
    "dense_hidden": 24,
}

Model = TypeVar("Model", bound=torch.nn.Module)


@pytest.hookimpl(tryfirst=True)  # before marks are asked for
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a product of three axes or more, cases with every pair of values; the others are slow."""
    products: dict[str, list[pytest.Item]] = {}
    for item in items:
        if len(axes(item)) > 2:
            products.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cases in products.values():
        for item in beyond_pairs(cases):
            item.add_marker(pytest.mark.slow)


def axes(item: pytest.Item) -> list[tuple[int, str]]:
    """A case's value on each axis, by its id; a table of several arguments is one axis."""
    found = getattr(item, "callspec", None)
    return [] if found is None else list(enumerate(found._idlist))


def beyond_pairs(cases: list[pytest.Item]) -> list[pytest.Item]:
    """The cases left when those were picked, most new pairs first, that hold every pair."""
    pairs = {case: set(combinations(axes(case), 2)) for case in cases}
    missing = set().union(*pairs.values())
    while missing:
        best = max(pairs, key=lambda case: len(pairs[case] & missing))
        missing -= pairs.pop(best)
    return list(pairs)


def pytest_collection_finish() -> None:
    """Ten thousand tests and all modules stay: whoever collects garbage need not look at them.

    And the bundled plays, a second's work for the tokenizer, are encoded once.
    """
    for name in ("open_mythos.train.sources", "open_mythos.cli.sweep"):
        module: Any = sys.modules.get(name)
        if module is not None:
            module.encode_corpus = encoded_once(module.encode_corpus)
    gc.collect()
    gc.freeze()


def encoded_once(encode: Callable[..., Any]) -> Callable[..., Any]:
    """`encode_corpus`, which remembers what long texts became."""
    known: dict[tuple[Any, ...], Any] = {}

    @wraps(encode)
    def call(tokenizer: Any, text: str) -> Any:
        if len(text) < 50_000 or not hasattr(tokenizer, "vocabulary"):
            return encode(tokenizer, text)
        key = (type(tokenizer), str(tokenizer.vocabulary()), tokenizer.eos_id, text)
        if key not in known:
            known[key] = encode(tokenizer, text)
        return known[key].copy()

    return call


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """Seed torch and numpy from the test's name; returns the seed."""
    number = zlib.crc32(request.node.nodeid.encode())
    torch.manual_seed(number)
    np.random.seed(number)  # noqa: NPY002 -- whoever uses numpy's own generator gets it seeded
    return number


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., MythosConfig]:
    """`tiny_config(**changes)`: a config whose model has a few thousand parameters."""

    def make(**changes: Any) -> MythosConfig:
        return MythosConfig(**{**TINY, **changes})

    return make


@pytest.fixture(scope="session")
def randomised() -> Callable[..., Any]:
    """`randomised(model, std=0.2)`: noise on all parameters and on the router bias, in place.

    Nothing stays near its start, where a missing term (a norm weight of one, a bias of zero)
    would not show. Returns the model.
    """

    def shake(model: Model, std: float = 0.2) -> Model:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * std)
            for name, buffer in model.named_buffers():
                if name.endswith("router_bias"):
                    buffer.add_(torch.randn_like(buffer) * std)
        return model

    return shake


@pytest.fixture(params=["gqa", "mla"])
def attn_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["act", "last", "act_last", "act_sum"])
def readout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["continue", "freeze"])
def halted(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["lti", "add"])
def injection(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def any_config(
    tiny_config: Callable[..., MythosConfig],
    attn_type: str,
    readout: str,
    halted: str,
    injection: str,
) -> MythosConfig:
    """A tiny config of every attention, readout, halted behaviour and injection in turn."""
    return tiny_config(attn_type=attn_type, readout=readout, halted=halted, injection=injection)
