"""The typed cache: what it knows, what it refuses, and that a failing pass leaves no trace."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CacheError, InputError
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.cache import KVCache, LayerCache


@pytest.fixture
def model(attn_type: str, tiny_config: Callable[..., MythosConfig], randomised: Any) -> OpenMythos:
    net: OpenMythos = randomised(OpenMythos(tiny_config(attn_type=attn_type)).double().eval())
    return net


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(37, shape)


@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=5), grow=st.booleans())
@torch.no_grad()
def test_a_layer_returns_all_that_was_committed_and_the_new(counts: list[int], grow: bool) -> None:
    slot = LayerCache({"a": (3,), "b": (2, 2)}, batch=2, capacity=sum(counts))
    written: dict[str, list[torch.Tensor]] = {"a": [], "b": []}
    for count in counts:
        slot.extend({"a": torch.randn(2, count, 3), "b": torch.randn(2, count, 2, 2)})  # discarded
        new = {"a": torch.randn(2, count, 3), "b": torch.randn(2, count, 2, 2)}
        seen = slot.extend(new)
        for name, tensor in new.items():
            written[name].append(tensor)
            assert torch.equal(seen[name], torch.cat(written[name], dim=1))
        slot.advance(count)
        if grow:
            slot.grow(slot.capacity + 3)
    assert slot.length == sum(counts)
    for name, parts in written.items():
        assert torch.equal(slot.committed()[name], torch.cat(parts, dim=1))


def test_gradients_flow_through_the_new_part_only() -> None:
    slot = LayerCache({"a": (1,)}, batch=1, capacity=4)
    old = torch.ones(1, 2, 1, requires_grad=True)
    slot.extend({"a": old})
    slot.advance(2)
    new = torch.ones(1, 1, 1, requires_grad=True)
    slot.extend({"a": new})["a"].sum().backward()
    assert old.grad is None
    assert new.grad is not None
    assert new.grad.item() == 1


@pytest.mark.parametrize(("batch", "capacity"), [(0, 4), (1, 0), (-1, 4), (1, 33)])
def test_impossible_sizes_are_refused(
    batch: int, capacity: int, tiny_config: Callable[..., MythosConfig]
) -> None:
    with pytest.raises(CacheError):
        KVCache(tiny_config(max_seq_len=32), batch, capacity)


@torch.no_grad()
def test_it_knows_its_length_and_bytes(model: OpenMythos) -> None:
    cache = model.new_cache(2, 10)
    assert (cache.length, cache.n_loops) == (0, None)
    model(ids(2, 4), 2, cache)
    assert (cache.length, cache.n_loops) == (4, 2)
    model(ids(2, 1), None, cache)
    assert cache.length == 5
    assert {slot.length for _, slot in cache.slots()} == {5}
    names = ["prelude_0", "recurrent_loop_0", "recurrent_loop_1", "coda_0"]
    assert [name for name, _ in cache.slots()] == names
    cfg = model.cfg
    per_token = (
        cfg.kv_lora_rank + cfg.qk_rope_head_dim
        if cfg.attn_type == "mla"
        else 2 * cfg.n_kv_heads * cfg.head_dim
    )
    assert cache.nbytes == 4 * 2 * 10 * per_token * 8  # layers, rows, room, numbers, float64


@torch.no_grad()
def test_overflow_is_refused_and_changes_nothing(model: OpenMythos) -> None:
    cache, prompt, more = model.new_cache(2, 5), ids(2, 4), ids(2, 2)
    model(prompt, 2, cache)
    with pytest.raises(CacheError, match="5"):
        model(more, 2, cache)
    assert cache.length == 4
    whole = model(torch.cat((prompt, more[:, :1]), dim=1), 2)
    torch.testing.assert_close(model(more[:, :1], 2, cache)[:, -1], whole[:, -1])


@pytest.mark.parametrize(
    "changes",
    [
        {"prelude_layers": 2},
        {"coda_layers": 0},
        {"attn_type": "other"},
        {"kv_lora_rank": 6, "n_kv_heads": 4},
        {"qk_rope_head_dim": 2, "n_kv_heads": 1},
    ],
)
@torch.no_grad()
def test_a_cache_of_another_config_is_refused(
    model: OpenMythos, changes: dict[str, Any], tiny_config: Callable[..., MythosConfig]
) -> None:
    mine = model.cfg.attn_type
    attn = {"gqa": "mla", "mla": "gqa"}[mine] if changes.get("attn_type") else mine
    other = tiny_config(**{**changes, "attn_type": attn})
    cache = KVCache(other, 2, 8, dtype=torch.float64)
    with pytest.raises(CacheError, match="config"):
        model(ids(2, 3), None, cache)


@torch.no_grad()
def test_another_batch_loop_count_or_start_is_refused(model: OpenMythos) -> None:
    cache = model.new_cache(2, 9)
    model(ids(2, 3), 2, cache)
    with pytest.raises(CacheError, match="rows"):
        model(ids(1, 1), 2, cache)
    with pytest.raises(CacheError, match="loops"):
        model(ids(2, 1), 3, cache)
    with pytest.raises(CacheError, match="start_pos"):
        model(ids(2, 1), 2, cache, 0)
    with pytest.raises(InputError, match="start_pos"):
        model(ids(2, 1), 2, cache, -1)
    assert cache.length == 3
    model(ids(2, 1), 2, cache, 3)
    assert cache.length == 4


@torch.no_grad()
def test_a_cache_of_another_dtype_is_refused(model: OpenMythos) -> None:
    cache = KVCache(model.cfg, 1, 8, dtype=torch.float32)
    with pytest.raises(CacheError, match="float32"):
        model(ids(1, 3), 2, cache)


@torch.no_grad()
def test_what_is_no_cache_is_refused(model: OpenMythos) -> None:
    with pytest.raises(CacheError, match="list"):
        model(ids(1, 2), None, [])


@pytest.mark.parametrize("kind", ["typed", "dict"])
@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("where", ["coda", "head", "loop"])
@torch.no_grad()
def test_a_failing_pass_leaves_the_cache_as_it_was(
    model: OpenMythos, kind: str, filled: bool, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache: Any = model.new_cache(2, 9) if kind == "typed" else {}
    prompt, more = ids(2, 3), ids(2, 2)
    if filled:
        model(prompt, 2, cache)
    module = {"coda": model.coda[0].ffn, "head": model.head, "loop": model.recurrent.act}[where]

    def fail(*_: Any) -> torch.Tensor:
        raise KeyError("injected")

    with monkeypatch.context() as patch:
        patch.setattr(module, "forward", fail)
        with pytest.raises(KeyError, match="injected"):
            model(ids(2, 2), 2, cache)
    if kind == "dict":
        assert len(cache) == (4 if filled else 0)
        assert all(t.shape[1] == 3 for entry in cache.values() for t in entry.values())
    else:
        assert cache.length == (3 if filled else 0)
    if not filled:
        model(prompt, 3, cache)  # the failed call has not fixed the loops either
    loops = 2 if filled else 3
    whole = model(torch.cat((prompt, more), dim=1), loops)
    got = model(more, loops, cache)
    torch.testing.assert_close(got, whole[:, 3:], rtol=1e-9, atol=1e-9)


@given(keep=st.integers(0, 5))
@torch.no_grad()
def test_truncate_forgets_the_end(
    keep: int, tiny_config: Callable[..., MythosConfig], randomised: Any
) -> None:
    model = randomised(OpenMythos(tiny_config()).double().eval())
    cache, first, second = model.new_cache(2, 9), ids(2, 5), ids(2, 3)
    model(first, 2, cache)
    cache.truncate(keep)
    assert cache.length == keep
    got = model(second, 2, cache)
    whole = model(torch.cat((first[:, :keep], second), dim=1), 2)
    torch.testing.assert_close(got, whole[:, keep:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("keep", [0, 3, 4])
@torch.no_grad()
def test_truncate_forgets_padding_marks_too(
    keep: int, tiny_config: Callable[..., MythosConfig], randomised: Any
) -> None:
    model = randomised(OpenMythos(tiny_config()).double().eval())
    cache, first, second = model.new_cache(2, 9), ids(2, 5), ids(2, 2)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    model(first, 2, cache, attention_mask=mask)
    cache.truncate(keep)
    got = model(second, 2, cache)
    kept = torch.cat((mask[:, :keep], torch.ones_like(second)), dim=1)
    joined = torch.cat((first[:, :keep], second), dim=1)
    whole = model(joined, 2, attention_mask=kept)
    torch.testing.assert_close(got, whole[:, keep:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", [-1, 4])
@torch.no_grad()
def test_truncating_to_what_is_not_there_is_refused(model: OpenMythos, length: int) -> None:
    cache = model.new_cache(1, 9)
    model(ids(1, 3), 1, cache)
    with pytest.raises(CacheError, match="truncate"):
        cache.truncate(length)


@torch.no_grad()
def test_growing_keeps_the_content(model: OpenMythos) -> None:
    cache, first, second = model.new_cache(2, 4), ids(2, 4), ids(2, 4)
    model(first, 2, cache)
    cache.grow(8)
    assert cache.capacity == 8
    got = model(second, 2, cache)
    whole = model(torch.cat((first, second), dim=1), 2)
    torch.testing.assert_close(got, whole[:, 4:], rtol=1e-9, atol=1e-9)


def test_training_through_a_cache_equals_no_gradient_to_the_past(model: OpenMythos) -> None:
    """Two backward passes over one cache: neither trips over writes made in between."""
    cache, first, second = model.new_cache(2, 9), ids(2, 4), ids(2, 3)
    one = model(first, 2, cache)
    two = model(second, 2, cache)
    (one.sum() + two.square().sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_chosen_rows_go_on_as_if_they_had_been_there_alone(model: OpenMythos) -> None:
    first, second = ids(3, 4), ids(4, 2)
    rows = torch.tensor([2, 0, 0, 1])
    mask = torch.tensor([[0, 1, 1, 1], [1] * 4, [0, 0, 1, 1]])
    cache, want = model.new_cache(3, 9), model.new_cache(4, 9)
    model(first, 2, cache, attention_mask=mask)
    model(first[rows], 2, want, attention_mask=mask[rows])
    cache.select(rows)
    assert cache.batch == 4
    got = model(second, 2, cache)
    torch.testing.assert_close(got, model(second, 2, want), rtol=1e-9, atol=1e-9)
