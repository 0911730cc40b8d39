"""`generate` by a request and with a streamer, against its other ways and against the pieces."""

from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import InputError
from open_mythos.generate.continuation import Ask, Continuations
from open_mythos.generate.params import Constraint, SamplingParams
from open_mythos.model.mythos import OpenMythos


Build = Callable[..., Any]


@pytest.fixture
def build(tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]) -> Build:
    def make(**changes: Any) -> Any:
        return randomised(OpenMythos(tiny_config(**changes))).double().eval()

    return make


def prompt(rows: int = 2, length: int = 5) -> Tensor:
    return torch.randint(0, 37, (rows, length))


def test_a_greedy_request_gives_the_greedy_ids_padded_alike(build: Build) -> None:
    model, ids = build(), prompt(3)
    mask = torch.tensor([[1] * 5, [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])
    free = model.generate(ids, 8, 3, 0.0, attention_mask=mask)
    eos = int(free[0, 7])
    want = model.generate(ids, 8, 3, 0.0, attention_mask=mask, eos_token_id=eos)
    params = SamplingParams(temperature=0.0, max_tokens=8)
    got = model.generate(ids, n_loops=3, params=params, attention_mask=mask, eos_token_id=eos)
    assert torch.equal(got, want)
    assert got.dtype == torch.int64
    narrow = model.generate(ids.int(), n_loops=3, params=params)
    assert narrow.dtype == torch.int32


def test_a_request_for_several_gives_them_side_by_side(build: Build) -> None:
    model, ids = build(), prompt()
    params = SamplingParams(2.0, n=3, seed=4, max_tokens=6, repetition_penalty=1.3)
    got = model.generate(ids, n_loops=2, params=params)
    assert got.shape == (6, 11)
    for row in range(6):
        ask = Ask(ids[row // 3].tolist(), params, 4, row)
        batch, line = Continuations(model, [ask], n_loops=2), []
        while batch.going:
            (token,) = batch.step()
            line.append(token.token)  # type: ignore[union-attr]
        assert got[row].tolist() == [*ids[row // 3].tolist(), *line]


def test_the_generator_makes_the_seed_of_a_request_without_one(build: Build) -> None:
    model, ids, params = build(), prompt(), SamplingParams(max_tokens=8)

    def ids_of(seed: int) -> Tensor:
        found: Tensor = model.generate(
            ids, params=params, generator=torch.Generator().manual_seed(seed)
        )
        return found

    assert torch.equal(ids_of(1), ids_of(1))
    assert not torch.equal(ids_of(1), ids_of(2))


def test_no_tokens_are_the_prompts(build: Build) -> None:
    model, ids = build(), prompt()
    assert torch.equal(model.generate(ids, params=SamplingParams(max_tokens=0)), ids)


@pytest.mark.parametrize("params", [None, SamplingParams(seed=1, max_tokens=5)])
def test_a_streamer_is_shown_what_comes_back(build: Build, params: SamplingParams | None) -> None:
    class Watcher:
        def __init__(self) -> None:
            self.parts: list[Tensor] = []
            self.ended = False

        def put(self, value: Tensor) -> None:
            assert not self.ended
            self.parts.append(value if value.dim() == 2 else value.unsqueeze(1))

        def end(self) -> None:
            self.ended = True

    model, ids, watcher = build(), prompt(), Watcher()
    more = {"max_new_tokens": 5} if params is None else {}
    got = model.generate(ids, **more, params=params, streamer=watcher)
    assert watcher.ended
    assert torch.equal(torch.cat(watcher.parts, dim=1), got)
    assert len(watcher.parts) == 6


def test_transformers_streamers_work(build: Build) -> None:
    transformers = pytest.importorskip("transformers")

    class Letters:
        def decode(self, ids: list[int], **_: Any) -> str:
            return "".join(chr(97 + i % 26) for i in ids)

    model, ids = build(), prompt(1)
    streamer = transformers.TextIteratorStreamer(Letters(), skip_prompt=True, timeout=60)
    kept: list[Tensor] = []
    worker = Thread(
        target=lambda: kept.append(model.generate(ids, 6, temperature=0.0, streamer=streamer))
    )
    worker.start()
    text = "".join(streamer)
    worker.join()
    assert text == Letters().decode(kept[0][0, 5:].tolist())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"params": SamplingParams(stop=("x",))}, "stream_text"),
        ({"params": SamplingParams(constraint=Constraint("json"))}, "needs the tokenizer"),
        ({"params": SamplingParams(), "temperature": 0.5}, "beside params"),
        ({"params": SamplingParams(), "max_new_tokens": 5}, "beside params"),
        ({"params": SamplingParams(max_tokens=20)}, "max_output_tokens"),
    ],
    ids=lambda v: str(v)[-30:],
)
def test_requests_that_cannot_be_answered_are_refused(
    build: Build, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build().generate(prompt(), **given)
