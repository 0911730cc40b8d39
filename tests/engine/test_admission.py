"""What is refused, and in which words; what is made of what is taken."""

import re
from typing import Any

import pytest
import torch

from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.engine.admission import Admission
from open_mythos.engine.request import Request
from open_mythos.errors import ConfigError, InputError, MythosError
from open_mythos.generate.params import SamplingParams
from open_mythos.nn.loop.exits.predictions import Oracle


ROOM = {"max_seq_len": 128, "max_output_tokens": 64}  # for as many tokens as nobody asked for
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"prompt": []}, "empty"),
    ({"prompt": [1, 37]}, "37"),
    ({"prompt": [1, -1]}, "-1"),
    ({"prompt": [1, True]}, "True"),
    ({"prompt": [1.5]}, "1.5"),
    ({"n_loops": 5}, "engine.n_loops"),
    ({"n_loops": 0}, "n_loops is 0"),
    ({"exit": "kll:3"}, "kl"),
    ({"exit": "calibrated"}, "calibrate"),
    ({"exit": Oracle(torch.zeros(1, 1))}, "oracle"),
    ({"sampling": SamplingParams(stop=("a",))}, "tokenizer"),
    ({"sampling": SamplingParams(logit_bias={40: 1.0})}, "logit_bias"),
    ({"sampling": SamplingParams(max_tokens=17)}, "max_output_tokens"),
    ({"sampling": SamplingParams(n=99)}, "engine.queue"),
    ({"sampling": {"temperature": 0}}, "SamplingParams"),
    ({"prompt": [1] * 30, "sampling": SamplingParams(max_tokens=4)}, "max_seq_len"),
    ({"prompt": [1] * 20, "sampling": SamplingParams(max_tokens=6)}, "engine.blocks"),
    ({"prompt_logprobs": -1}, "prompt_logprobs"),
    ({"prompt_logprobs": True}, "prompt_logprobs"),
]


@pytest.mark.parametrize(("wrong", "named"), WRONG, ids=lambda part: str(part)[:40])
def test_what_cannot_be_answered_is_refused_by_name(
    build: Any, sizes: Any, wrong: dict[str, Any], named: str
) -> None:
    admission = Admission(build(), None, sizes(blocks=6, queue=9))
    fits = {"prompt": [1, 2], "sampling": SamplingParams(max_tokens=2)}
    admission.check(Request(**fits))
    with pytest.raises(MythosError, match=re.escape(named)):
        admission.check(Request(**{**fits, **wrong}))


def test_models_that_no_engine_can_serve_are_refused(build: Any, sizes: Any) -> None:
    with pytest.raises(InputError, match="'last'"):
        Admission(build(kv="last"), None, sizes())
    with pytest.raises(InputError, match="eval"):
        Admission(build().train(), None, sizes())
    model = build()
    model.recurrent.lockstep = True
    with pytest.raises(InputError, match="ranks"):
        Admission(model, None, sizes())


def test_no_limit_is_as_many_as_fit(build: Any, sizes: Any) -> None:
    admission = Admission(build(), None, sizes(blocks=6))
    ((writer, track),) = admission.admit(Request([1] * 20, SamplingParams(max_tokens=None)), 0)
    assert writer.most == 4  # of 24 positions
    assert track.tokens == [1] * 20


def test_so_many_continuations_share_a_seed_and_differ_in_number(build: Any, sizes: Any) -> None:
    admission = Admission(build(**ROOM), ByteTokenizer(), sizes(blocks=64))
    admitted = admission.admit(Request([1, 2], SamplingParams(n=3), prompt_logprobs=2), 7)
    writers = [writer for writer, _ in admitted]
    assert [(w.request, w.choice) for w in writers] == [(7, 0), (7, 1), (7, 2)]
    assert len({w.seed for w in writers}) == 1
    assert [track.whole for _, track in admitted] == [True, False, False]
    assert len({id(track.tokens) for _, track in admitted}) == 3
    seeded = admission.admit(Request([1], SamplingParams(seed=5)), 8)
    assert seeded[0][0].seed == 5


def roots(admission: Admission, *requests: Request) -> list[bytes | None]:
    return [admission.admit(request, i)[0][1].root for i, request in enumerate(requests)]


def test_only_what_computes_the_same_shares_a_root(build: Any, sizes: Any) -> None:
    admission = Admission(build(**ROOM), None, sizes(blocks=64))
    same = roots(
        admission,
        Request([1]),
        Request([2], SamplingParams(seed=3), n_loops=4),
        Request([1], exit="fixed:4"),
    )
    assert len(set(same)) == 1
    others = roots(
        admission,
        Request([1], n_loops=3),
        Request([1], exit="kl"),
        Request([1], exit="kl:0.5"),
        Request([1], exit="latent:0.5"),
        Request([1], namespace="a"),
    )
    assert len({*same, *others}) == 6
    assert roots(admission, Request([1], exit="kl")) == [others[1]]
    lonely = Admission(build(**ROOM), None, sizes(blocks=64, share_prefixes=False))
    assert roots(lonely, Request([1])) == [None]


def test_an_exit_of_the_users_own_shares_nothing(build: Any, sizes: Any) -> None:
    class Now:
        def done(self, seen: Any) -> torch.Tensor:
            return torch.ones_like(seen.after[..., 0], dtype=torch.bool)

    admission = Admission(build(**ROOM), None, sizes(blocks=64))
    assert roots(admission, Request([1], exit=Now())) == [None]


def test_equal_exits_are_one_object_while_they_are_used(build: Any, sizes: Any) -> None:
    admission = Admission(build(**ROOM), None, sizes(blocks=64))
    tracks = [admission.admit(Request([1], exit="kl:0.1"), i)[0][1] for i in range(2)]
    assert tracks[0].leave is tracks[1].leave is not None
    assert len(admission._leaves) == 1
    tracks.clear()
    assert len(admission._leaves) == 0


def test_fixed_is_fewer_loops(build: Any, sizes: Any) -> None:
    admission = Admission(build(**ROOM), None, sizes(blocks=64))
    ((_, track),) = admission.admit(Request([1], n_loops=4, exit="fixed:2"), 0)
    assert (track.n_loops, track.leave) == (2, None)
    with pytest.raises(ConfigError, match="fixed"):
        admission.check(Request([1], exit="fixed:0"))
