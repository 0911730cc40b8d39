"""The door: what cannot be answered for is refused, by field, value and way out."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CacheError, InputError
from open_mythos.model.inputs import positions, real_keys
from open_mythos.model.mythos import OpenMythos


Config = Callable[..., MythosConfig]
Shake = Callable[..., Any]
NAN = float("nan")

# A message shows a way out if it says what would be right, or what to do.
WAY_OUT = re.compile(
    r"\b(must|use|give|ask for|raise|make|leave|add|shorten|fewer|lie in|lies in|at most|at least|"
    r"up to|did you mean|do not match|new cache|are integers)\b|outside 0 \.\."
)


def refuse(kind: type[Exception], call: Callable[[], object], *shown: str) -> None:
    """The call fails with `kind`, in words that hold every one of `shown` and a way out."""
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    for word in shown:
        assert word in text, f"{word!r} is not in: {text}"
    assert WAY_OUT.search(text), f"no way out in: {text}"


@pytest.fixture
def model(tiny_config: Config, randomised: Shake, attn_type: str) -> Any:
    return randomised(OpenMythos(tiny_config(attn_type=attn_type))).eval()


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 37, (2, 6))


# -- config ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"n_heads": 3}, ("n_heads", "3", "dim", "16")),
        ({"n_kv_heads": 3}, ("n_kv_heads", "3", "n_heads", "4")),
        ({"attn_type": "gqaa"}, ("attn_type", "'gqaa'", "'gqa'", "'mla'")),
        ({"attn_type": "mla", "qk_rope_head_dim": 5}, ("qk_rope_head_dim", "5", "even")),
        ({"dim": 12}, ("dim", "3", "even")),
        ({"n_experts_per_tok": 6}, ("n_experts_per_tok", "6", "n_experts", "5")),
        ({"n_loops": 2}, ("n_loops",)),
        ({"max_loop_iters": 0}, ("max_loop_iters", "0", "at least 1")),
        ({"vocab_size": 10.5}, ("vocab_size", "10.5", "int")),
        ({"act_threshold": NAN}, ("act_threshold", "nan", "finite")),
        ({"dropout": -0.1}, ("dropout", "-0.1", "[0, 1)")),
    ],
    ids=str,
)
def test_a_config_that_builds_nothing(
    tiny_config: Config, changes: dict[str, Any], shown: tuple[str, ...]
) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        OpenMythos(tiny_config(**changes))
    assert all(word in str(caught.value) for word in shown), str(caught.value)


# -- ids ------------------------------------------------------------------------------------------


def test_ids_that_are_no_batch_of_tokens(model: Any, ids: Tensor) -> None:
    refuse(InputError, lambda: model(ids.tolist()), "ids", "list", "tensor")
    refuse(InputError, lambda: model(ids[0]), "ids", "(6,)", "unsqueeze(0)")
    refuse(InputError, lambda: model(ids[None]), "ids", "(1, 2, 6)")
    refuse(InputError, lambda: model(ids.float()), "ids", "float32", "ids.long()")
    refuse(InputError, lambda: model(ids.bool()), "ids", "bool", "ids.long()")
    refuse(InputError, lambda: model(ids[:, :0]), "ids", "empty", "(2, 0)", "at least one")
    refuse(InputError, lambda: model(ids[:0]), "ids", "empty", "(0, 6)")
    refuse(InputError, lambda: model.generate(ids[:, :0]), "ids", "empty")


@pytest.mark.parametrize("wrong", [-1, 37, 50256])
def test_ids_outside_the_vocabulary(model: Any, ids: Tensor, wrong: int) -> None:
    ids[1, 3] = wrong
    refuse(InputError, lambda: model(ids), "token id", str(wrong), "36", "vocab_size (37)")
    refuse(InputError, lambda: model.generate(ids, 2), str(wrong), "vocab_size (37)")


@torch.no_grad()
def test_every_integer_dtype_that_is_let_in_works(model: Any, ids: Tensor) -> None:
    logits, tokens = model(ids), model.generate(ids, 2, temperature=0.0)
    for dtype in (torch.int32, torch.int16, torch.int8, torch.uint8):
        assert torch.equal(model(ids.to(dtype)), logits)
        assert torch.equal(model.generate(ids.to(dtype), 2, temperature=0.0).long(), tokens)


# -- loops and positions --------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [0, -1, 2.0, True, "3", float("nan"), np.float32(2)], ids=repr)
def test_loops_that_cannot_be_run(model: Any, ids: Tensor, wrong: Any) -> None:
    for call in (
        lambda: model(ids, n_loops=wrong),
        lambda: model(ids, n_loops=wrong, kv_cache={}),
        lambda: model.generate(ids, 2, wrong),
    ):
        refuse(InputError, call, "n_loops", str(wrong), "at least 1", "None", "max_loop_iters (3)")


@pytest.mark.parametrize(
    ("name", "least", "wrong"),
    [("logits_to_keep", 0, w) for w in (-1, 1.0, True, "2")]
    + [("backprop_loops", 1, w) for w in (0, -3, 2.0, True, "2")],
)
def test_counts_that_are_none(model: Any, ids: Tensor, name: str, least: int, wrong: Any) -> None:
    shown = (f"{name} is {wrong!r}", f"int of at least {least}", "None")
    refuse(InputError, lambda: model(ids, 2, **{name: wrong}), *shown)
    cache = model.new_cache(2, 9)
    refuse(InputError, lambda: model(ids, 2, cache, **{name: wrong}), *shown)
    assert cache.length == 0
    assert model(ids, 3, cache, **{name: least}).shape[0] == 2  # nor are the loops settled


def test_a_sequence_past_max_seq_len(model: Any, ids: Tensor) -> None:
    model(torch.zeros(1, 32, dtype=torch.int64))
    long = torch.zeros(1, 33, dtype=torch.int64)
    refuse(InputError, lambda: model(long), "33", "max_seq_len", "32")
    refuse(InputError, lambda: model(long, kv_cache={}), "33", "max_seq_len", "32")
    refuse(InputError, lambda: model(ids, start_pos=27), "33", "max_seq_len", "32")
    cache: dict[str, Any] = {}
    model(long[:, :30], kv_cache=cache)
    refuse(InputError, lambda: model(long[:, :3], kv_cache=cache), "33", "max_seq_len", "32")
    assert model(long[:, :2], kv_cache=cache).shape[1] == 2  # the cache is as it was


def test_a_start_that_contradicts_the_cache(model: Any, ids: Tensor) -> None:
    for cache in ({}, model.new_cache(2, 20)):
        refuse(CacheError, lambda c=cache: model(ids, 2, c, 3), "start_pos", "3", "0 positions")
        model(ids, 2, cache, 0)
        for wrong in (0, 5, 7):
            refuse(CacheError, lambda c=cache, w=wrong: model(ids, 2, c, w), str(wrong), "6 pos")
        model(ids[:, :1], 2, cache, 6)
    for wrong in (-1, 1.0, "0", True):
        refuse(InputError, lambda w=wrong: model(ids, start_pos=w), "start_pos", repr(wrong), "int")


@torch.no_grad()
def test_start_pos_without_a_cache_moves_the_positions(model: Any, ids: Tensor) -> None:
    """Rotation is relative, so that logits stay; absolute positions are those that were asked."""
    assert torch.allclose(model(ids, start_pos=9), model(ids), atol=1e-4)
    where = torch.arange(9, 15)
    assert torch.equal(model(ids, position_ids=where), model(ids, start_pos=9))
    assert torch.equal(model(ids, position_ids=where.expand(2, 6)), model(ids, start_pos=9))
    spread = torch.tensor([0, 2, 3, 9, 20, 31])
    assert not torch.allclose(model(ids, position_ids=spread), model(ids), atol=1e-4)


def test_position_ids_that_do_not_fit(model: Any, ids: Tensor) -> None:
    def call(where: Tensor) -> Callable[[], object]:
        return lambda: model(ids, position_ids=where)

    refuse(InputError, call(torch.arange(5)), "position_ids", "(5,)", "(6,)", "(2, 6)")
    refuse(InputError, call(torch.arange(6.0)), "position_ids", "float32", "integers")
    refuse(InputError, call(torch.arange(27, 33)), "position_ids", "32", "0 .. 31")
    refuse(InputError, call(torch.arange(-1, 5)), "position_ids", "-1", "0 .. 31")


# -- attention masks ------------------------------------------------------------------------------


def test_an_attention_mask_that_does_not_fit(model: Any, ids: Tensor) -> None:
    def call(mask: object, cache: object = None) -> Callable[[], object]:
        return lambda: model(ids, 2, cache, attention_mask=mask)

    refuse(InputError, call(torch.ones(2, 5)), "attention_mask", "5", "6")
    refuse(InputError, call(torch.ones(1, 6)), "attention_mask", "(1, 6)", "(2, 6)")
    refuse(InputError, call(torch.ones(2, 1, 6)), "attention_mask", "(2, 1, 6)", "(2, 6)")
    refuse(InputError, call([[1] * 6] * 2), "attention_mask", "list")
    blank = torch.ones(2, 6)
    blank[1] = 0
    refuse(InputError, call(blank), "attention_mask", "row")
    cache: dict[str, Any] = {}
    model(ids, 2, cache)
    refuse(InputError, call(torch.ones(2, 7), cache), "attention_mask", "7", "6 new", "6 cached")
    model(ids, 2, cache, attention_mask=torch.ones(2, 12))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32], ids=str)
def test_real_keys_puts_the_cached_part_first(dtype: torch.dtype) -> None:
    ids, cached = torch.zeros(2, 3, dtype=torch.int64), torch.tensor([[False, True], [True, True]])
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]]).to(dtype)
    both = torch.cat((cached, mask != 0), dim=1)
    assert torch.equal(real_keys(mask, cached, ids, 2), both)
    assert torch.equal(real_keys(mask, None, ids, 2)[:, :2], torch.ones(2, 2, dtype=torch.bool))
    assert torch.equal(real_keys(both.to(dtype), None, ids, 2), both)
    assert torch.equal(real_keys(None, cached, ids, 2)[:, 2:], torch.ones(2, 3, dtype=torch.bool))
    assert real_keys(None, None, ids, 2) is None


def test_positions_count_real_tokens(tiny_config: Config) -> None:
    ids, cfg = torch.zeros(2, 4, dtype=torch.int64), tiny_config()
    valid = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 1, 1]]).bool()
    want = torch.tensor([[0, 1, 2, 3], [2, 2, 3, 4]])
    assert torch.equal(positions(None, valid, 2, ids, cfg), want)
    assert torch.equal(positions(None, None, 2, ids, cfg), torch.arange(2, 6))


@torch.no_grad()
def test_padding_on_either_side_changes_no_real_logit(model: Any, ids: Tensor) -> None:
    want = model(ids, 4)
    pad, one = torch.full((2, 3), 5), torch.ones(2, 6)
    left = model(torch.cat((pad, ids), 1), 4, attention_mask=torch.cat((pad * 0, one), 1))
    right = model(torch.cat((ids, pad), 1), 4, attention_mask=torch.cat((one, pad * 0), 1))
    assert torch.allclose(left[:, 3:], want, atol=1e-5)
    assert torch.allclose(right[:, :6], want, atol=1e-5)


# -- caches ---------------------------------------------------------------------------------------


def filled(model: Any, ids: Tensor, kind: str, n_loops: int = 2) -> Any:
    cache = {} if kind == "dict" else model.new_cache(len(ids), 20)
    model(ids, n_loops, cache)
    return cache


@pytest.mark.parametrize("kind", ["dict", "cache"])
class TestForeignCache:
    """A cache of something else is refused, whether it is a KVCache or a plain dict."""

    def test_of_another_loop_count(self, model: Any, ids: Tensor, kind: str) -> None:
        for wrong in (1, 3):
            cache = filled(model, ids, kind)
            refuse(CacheError, lambda c=cache, w=wrong: model(ids, w, c), "2 loops", str(wrong))

    def test_of_another_batch(self, model: Any, ids: Tensor, kind: str) -> None:
        refuse(CacheError, lambda: model(ids[:1], 2, filled(model, ids, kind)), "2 rows", "1")
        refuse(CacheError, lambda: model(ids, 2, filled(model, ids[:1], kind)), "1 row", "2")

    def test_of_the_other_attention(
        self, model: Any, ids: Tensor, kind: str, tiny_config: Config
    ) -> None:
        other = "gqa" if model.cfg.attn_type == "mla" else "mla"
        foreign = filled(OpenMythos(tiny_config(attn_type=other)), ids, kind)
        refuse(CacheError, lambda: model(ids, 2, foreign), "config")

    def test_of_other_layers(self, model: Any, ids: Tensor, kind: str, tiny_config: Config) -> None:
        more = OpenMythos(tiny_config(attn_type=model.cfg.attn_type, prelude_layers=2))
        refuse(CacheError, lambda: model(ids, 2, filled(more, ids, kind)), "prelude")
        refuse(CacheError, lambda: more(ids, 2, filled(model, ids, kind)), "prelude")

    def test_of_another_width(
        self, model: Any, ids: Tensor, kind: str, tiny_config: Config
    ) -> None:
        wide = tiny_config(attn_type=model.cfg.attn_type, kv_lora_rank=1, n_kv_heads=1)
        refuse(CacheError, lambda: model(ids, 2, filled(OpenMythos(wide), ids, kind)), "config")

    def test_of_another_config_with_entries_of_the_same_shape(
        self, model: Any, ids: Tensor, kind: str, tiny_config: Config
    ) -> None:
        """Keys and values of a network twice as wide fit by shape, and mean nothing here."""
        wide = tiny_config(attn_type=model.cfg.attn_type, dim=32, n_heads=8)
        foreign = filled(OpenMythos(wide), ids, kind)
        refuse(CacheError, lambda: model(ids, 2, foreign), "config")

    def test_a_refused_call_leaves_the_cache_as_it_was(
        self, model: Any, ids: Tensor, kind: str
    ) -> None:
        cache = filled(model, ids[:, :4], kind)
        for wrong in ({"n_loops": 3}, {"start_pos": 2}, {"attention_mask": torch.ones(2, 9)}):
            with pytest.raises(ValueError, match=r"\d"):
                model(ids[:, 4:], kv_cache=cache, **wrong)
        with torch.no_grad():
            rest = model(ids[:, 4:], 2, cache)
            assert torch.allclose(rest, model(ids, 2)[:, 4:], atol=1e-5)


def test_caches_that_are_none(model: Any, ids: Tensor) -> None:
    refuse(CacheError, lambda: model(ids, 2, []), "kv_cache", "list", "new_cache", "dict")
    refuse(CacheError, lambda: model(ids, 2, {"junk": 1}), "junk")
    refuse(
        CacheError, lambda: model(ids, 2, {"layer_0": {"k": torch.zeros(2, 3, 2, 4)}}), "layer_0"
    )
    refuse(CacheError, lambda: model(ids, 2, model.new_cache(2, 4)), "4 positions", "6")
    refuse(CacheError, lambda: model.new_cache(2, 33), "capacity", "33", "max_seq_len", "32")
    refuse(CacheError, lambda: model.new_cache(0, 3), "batch", "0", ">= 1")
    torn = {key: dict(entry) for key, entry in filled(model, ids, "dict").items()}
    torn["coda_0"] = {name: t[:, :2] for name, t in torn["coda_0"].items()}
    refuse(CacheError, lambda: model(ids, 2, torn), "lengths", "[2, 6]")


@torch.no_grad()
def test_a_truncated_cache_forgets_its_padding_too(model: Any, ids: Tensor) -> None:
    mask = torch.ones(2, 6, dtype=torch.int64)
    mask[0, :2] = 0
    cache = model.new_cache(2, 20)
    model(ids, 2, cache, attention_mask=mask)
    cache.truncate(4)
    got = model(ids[:, 4:], 2, cache)
    assert torch.allclose(got, model(ids, 2, attention_mask=mask)[:, 4:], atol=1e-5)
