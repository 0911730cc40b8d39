"""Every layer of every loop has one slot, numbered as a token passes them."""

from typing import Any

import pytest
import torch

from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.attention.gqa import GQAttention
from open_mythos.nn.rotary import rotary
from open_mythos.vllm.slots import LoopSlot, Slot, Slots, number_slots


@pytest.mark.parametrize("loops", [1, 4])
@pytest.mark.parametrize("layers", [(0, 1, 0), (2, 3, 1), (1, 1, 2)])
def test_numbers_count_a_tokens_layers_in_order(
    tiny_config: Any, layers: tuple[int, int, int], loops: int
) -> None:
    prelude, core, coda = layers
    cfg = tiny_config(prelude_layers=prelude, core_layers=core, coda_layers=coda)
    numbers = number_slots(cfg, loops)
    passed = [*numbers.prelude, *(n for loop in numbers.loops for n in loop), *numbers.coda]
    assert passed == list(range(prelude + loops * core + coda))
    assert numbers.count == len(passed)
    assert len(numbers.loops) == loops


def test_slots_ask_the_attention_of_their_own_number(tiny_config: Any) -> None:
    cfg, seen = tiny_config(core_layers=2), []
    numbers = number_slots(cfg, 3)

    def numbered(number: int) -> Any:
        return lambda q, k, v: (seen.append(number), q)[1]

    slots = Slots.of(numbers, [numbered(i) for i in range(numbers.count)])
    attn = GQAttention(cfg)
    context = AttentionContext(rotary(torch.arange(4), cfg.rope_dim, cfg.rope_theta))
    x = torch.randn(1, 4, cfg.dim)
    every = [*slots.prelude, *(loop.layer(i) for loop in slots.recurrent for i in (0, 1))]
    for slot in [*every, *slots.coda]:
        assert slot.look(attn, x, context).shape == x.shape
    assert seen == list(range(numbers.count))


def test_a_slot_hands_on_turned_rows_and_maps_back(tiny_config: Any) -> None:
    cfg, given = tiny_config(), []
    attn = GQAttention(cfg)
    context = AttentionContext(rotary(torch.tensor([3, 0, 7]), cfg.rope_dim, cfg.rope_theta))
    x = torch.randn(1, 3, cfg.dim)
    out = torch.randn(3, cfg.n_heads * cfg.head_dim)
    one = Slot(lambda *parts: (given.extend(parts), out)[1])
    said = one.look(attn, x, context)
    q, new = attn.project(x, context.rotary)
    for found, expected in zip(given, (q, new["k"], new["v"]), strict=True):
        assert torch.equal(found, expected[0].flatten(1))
    assert torch.equal(said[0], attn.wo(out))
    assert LoopSlot([one.look, one.look]).layer(1) is not one
