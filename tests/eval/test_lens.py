"""The lens: what it says of each loop is what a pass of so many loops says, by itself."""

from typing import Any

import pytest
import torch

from open_mythos.errors import InputError
from open_mythos.eval import lens
from open_mythos.eval.lens import look_through
from open_mythos.model.mythos import OpenMythos


KINDS: dict[str, dict[str, Any]] = {
    "last": {"readout": "last"},
    "act": {"readout": "act", "act_threshold": 0.99},
    "dense": {"readout": "last", "core_ffn": "dense", "core_layers": 2},
    "hyper": {"readout": "last", "injection": "hyper", "streams": 2},
}


@pytest.fixture(params=KINDS)
def model(request: Any, tiny_config: Any, randomised: Any) -> OpenMythos:
    found: OpenMythos = randomised(OpenMythos(tiny_config(**KINDS[request.param]))).eval()
    return found


def test_a_loop_says_what_a_pass_that_ends_there_says(
    model: OpenMythos, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.randint(0, 37, (11,)).tolist()
    whole = look_through(model, ids, 3, top=4)
    monkeypatch.setattr(lens, "NUMBERS", 37 * 3)  # pieces of three positions
    cut = look_through(model, ids, 3, top=4)
    for name in ("probabilities", "following", "entropy", "change"):
        torch.testing.assert_close(getattr(cut, name), getattr(whole, name))
    assert torch.equal(cut.tokens, whole.tokens)
    past = None
    for t in range(1, 4):
        with torch.no_grad():
            p = model(torch.tensor([ids]), n_loops=t)[0].softmax(-1)
        best = p.topk(4)
        assert torch.equal(whole.tokens[t - 1], best.indices)
        torch.testing.assert_close(whole.probabilities[t - 1], best.values, rtol=1e-4, atol=1e-6)
        own = p[torch.arange(10), torch.tensor(ids[1:])]
        torch.testing.assert_close(whole.following[t - 1], own, rtol=1e-4, atol=1e-6)
        assert whole.entropy[t - 1].exp().max() <= 37 * (1 + 1e-5)
        if past is not None:
            kl = (p * (p / past).log()).sum(-1)
            torch.testing.assert_close(whole.change[t - 2], kl, rtol=1e-3, atol=1e-6)
        past = p


def test_what_the_loops_did_is_what_the_record_of_a_pass_says(model: OpenMythos) -> None:
    ids = torch.randint(0, 37, (7,)).tolist()
    found = look_through(model, ids, 3)
    with torch.no_grad():
        record = model(torch.tensor([ids]), n_loops=3, return_output=True)
    assert found.n_loops == record.n_loops
    assert torch.equal(found.router_load, record.router_load)
    assert torch.equal(found.loops, record.loops_used[0].clamp(max=record.n_loops))
    assert (found.halting is None) == (record.halting is None)
    if found.halting is not None:
        torch.testing.assert_close(found.halting, record.halting[:, 0])
    torch.testing.assert_close(found.state_rms, record.state_rms)
    assert found.sound


def test_who_has_left_repeats_what_he_left_with(tiny_config: Any, randomised: Any) -> None:
    model = randomised(OpenMythos(tiny_config(readout="last"))).eval()
    ids = torch.randint(0, 37, (20,)).tolist()
    plain = look_through(model, ids, 3)
    middle = plain.change[0].median().item()
    found = look_through(model, ids, 3, exit=f"latent:{middle}")
    for at, loops in enumerate(found.loops.tolist()):
        for t in range(loops, found.n_loops):
            assert torch.equal(found.tokens[t, at], found.tokens[loops - 1, at])
    fixed = look_through(model, ids, 3, exit="fixed:2")
    assert fixed.loops.tolist() == [2] * 20
    with torch.no_grad():
        expected = model(torch.tensor([ids]), n_loops=2)[0].argmax(-1)
    assert torch.equal(fixed.tokens[-1, :, 0], expected)


def test_one_token_and_one_loop_are_enough_and_no_top_is_not(model: OpenMythos) -> None:
    found = look_through(model, [3], 1)
    assert found.tokens.shape == (1, 1, 5)
    assert (found.following.shape, found.change.shape) == ((1, 0), (0, 1))
    with pytest.raises(InputError, match="top is 0"):
        look_through(model, [3], 1, top=0)


def test_what_is_no_number_is_told(model: OpenMythos) -> None:
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    assert not look_through(model, [1, 2], 2).sound
