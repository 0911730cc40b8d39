from collections.abc import Callable
from typing import Any

import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.batch import Batch
from open_mythos.eval.doctor.walk import beginning, part, walk
from open_mythos.model.mythos import OpenMythos


Config = Callable[..., MythosConfig]
Shake = Callable[..., Any]


def test_a_walk_is_the_pass_itself_with_every_state(
    any_config: MythosConfig, randomised: Shake
) -> None:
    model = randomised(OpenMythos(any_config)).train()
    ids = torch.randint(any_config.vocab_size, (3, 7))
    seen: list[torch.Tensor] = []
    plain = model.recurrent.turn

    def turn(*args: Any, **how: Any) -> Any:
        out = plain(*args, **how)
        seen.append(out[0])
        return out

    vars(model.recurrent)["turn"] = turn
    found = walk(model, Batch(ids, ids), 5)
    assert model.training
    assert len(found.turns) == found.output.n_loops == 5  # whoever has halted by then
    assert len(found.states) == 6
    for state, wanted in zip(found.states[1:], seen, strict=True):
        assert torch.equal(state, wanted)
    del vars(model.recurrent)["turn"]
    assert {"advance", "turn"}.isdisjoint(vars(model.recurrent))
    assert not model.recurrent.lockstep
    with torch.no_grad():
        logits = model.eval()(ids, 5)
    torch.testing.assert_close(found.output.logits, logits)


def test_a_loop_taken_again_from_its_own_state_comes_to_the_same(
    tiny_config: Config, randomised: Shake, attn_type: str
) -> None:
    model = randomised(OpenMythos(tiny_config(attn_type=attn_type))).eval()
    ids = torch.randint(37, (2, 6))
    found = walk(model, Batch(ids, ids), 4)
    for turn in found.turns:
        again = turn.again(model.recurrent, turn.before.h)
        torch.testing.assert_close(again, turn.after)
    other = found.turns[1].again(model.recurrent, torch.randn_like(found.states[0]))
    assert not torch.allclose(other, found.turns[1].after)


def test_another_start_is_where_the_first_loop_begins(
    tiny_config: Config, randomised: Shake
) -> None:
    model = randomised(OpenMythos(tiny_config(readout="last"))).eval()
    ids = torch.randint(37, (2, 6))
    zero = walk(model, Batch(ids, ids), 3, torch.zeros_like)
    own = walk(model, Batch(ids, ids), 3)
    assert float(zero.states[0].abs().max()) == 0.0
    assert torch.equal(zero.states[1], zero.turns[0].after)
    assert not torch.allclose(zero.states[1], own.states[1])
    expected = own.turns[0].again(model.recurrent, torch.zeros_like(own.states[0]))
    torch.testing.assert_close(zero.states[1], expected)


def test_documents_are_kept_apart(tiny_config: Config, randomised: Shake) -> None:
    model = randomised(OpenMythos(tiny_config(readout="last"))).eval()
    ids = torch.randint(37, (2, 6))
    documents = torch.tensor([[0, 0, 0, 1, 1, 1]]).expand(2, -1)
    together = walk(model, Batch(ids, ids, documents=documents), 2).states[-1]
    alone = walk(model, Batch(ids[:, 3:], ids[:, 3:]), 2).states[-1]
    torch.testing.assert_close(together[:, 3:], alone)


def test_rows_are_taken_as_often_as_asked() -> None:
    ids = torch.arange(6).view(3, 2)
    batch = Batch(ids, ids + 1, documents=ids * 0 + torch.arange(3).view(3, 1))
    found = part(batch, torch.tensor([2, 0, 2]))
    assert found.ids.tolist() == [[4, 5], [0, 1], [4, 5]]
    assert found.targets.tolist() == [[5, 6], [1, 2], [5, 6]]
    assert found.documents is not None
    assert found.documents.tolist() == [[2, 2], [0, 0], [2, 2]]
    assert part(Batch(ids, ids), torch.tensor([1])).documents is None
    cut = beginning(batch, 1)
    assert cut.ids.tolist() == [[0], [2], [4]]
    assert cut.targets.tolist() == [[1], [3], [5]]
    assert cut.documents is not None
    assert cut.documents.tolist() == [[0], [1], [2]]
