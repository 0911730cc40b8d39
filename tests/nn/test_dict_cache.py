"""A plain dict as the cache, in the hands of people who copy, cut and reorder it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CacheError
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.rotary import precompute_rope_freqs


Cache = dict[str, Any]


@pytest.fixture
def model(attn_type: str, tiny_config: Callable[..., MythosConfig], randomised: Any) -> OpenMythos:
    cfg = tiny_config(attn_type=attn_type, prelude_layers=2, max_seq_len=160)
    net: OpenMythos = randomised(OpenMythos(cfg).double().eval())
    return net


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(37, shape)


def clones(cache: Cache) -> Cache:
    return {key: {n: t.clone() for n, t in entry.items()} for key, entry in cache.items()}


COPIES: dict[str, Callable[[Cache], Cache]] = {
    "same": lambda c: c,
    "shallow": dict,
    "two_levels": lambda c: {k: dict(v) for k, v in c.items()},
    "entry_copy": lambda c: {k: copy.copy(v) for k, v in c.items()},
    "deepcopy": copy.deepcopy,
    "deepcopy_each": lambda c: {k: copy.deepcopy(v) for k, v in c.items()},
    "clones": clones,
}


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_filled_in_place_under_the_published_keys(model: OpenMythos) -> None:
    cache: Cache = {}
    model(ids(2, 4), 3, cache)
    want = ["prelude_0", "prelude_1"] + [f"recurrent_loop_{t}" for t in range(3)] + ["coda_0"]
    assert sorted(cache) == sorted(want)
    model(ids(2, 1), 3, cache)
    assert sorted(cache) == sorted(want)
    cfg = model.cfg
    numbers = (
        cfg.kv_lora_rank + cfg.qk_rope_head_dim
        if cfg.attn_type == "mla"
        else 2 * cfg.n_kv_heads * cfg.head_dim
    )
    size = sum(t.numel() * t.element_size() for entry in cache.values() for t in entry.values())
    assert size == 6 * 2 * 5 * numbers * 8
    for entry in cache.values():
        assert all(t.shape[:2] == (2, 5) for t in entry.values())
        if cfg.attn_type == "gqa":
            assert set(entry) == {"k", "v"}


@torch.no_grad()
def test_many_steps_past_the_first_room(model: OpenMythos) -> None:
    text = ids(1, 150)
    cache: Cache = {}
    parts = [model(text[:, i : i + 25], 2, cache) for i in range(0, 150, 25)]
    close(torch.cat(parts, dim=1), model(text, 2))


@pytest.mark.parametrize("kind", COPIES)
@torch.no_grad()
def test_a_copy_goes_its_own_way(model: OpenMythos, kind: str) -> None:
    prompt, left, right = ids(2, 4), ids(2, 3), ids(2, 3)
    cache: Cache = {}
    model(prompt, 2, cache)
    branch = COPIES[kind](cache)
    if kind != "same":
        for step in range(3):  # in turns, so that a shared store would show
            a = model(left[:, step : step + 1], 2, cache)
            b = model(right[:, step : step + 1], 2, branch)
            so_far = slice(0, step + 1)
            close(a[:, -1], model(torch.cat((prompt, left[:, so_far]), dim=1), 2)[:, -1])
            close(b[:, -1], model(torch.cat((prompt, right[:, so_far]), dim=1), 2)[:, -1])
    else:
        close(model(left, 2, branch), model(torch.cat((prompt, left), dim=1), 2)[:, 4:])


@pytest.mark.parametrize("kind", ["same", "shallow", "deepcopy", "deepcopy_each"])
@pytest.mark.parametrize("order", ["branch_first", "branch_last"])
@torch.no_grad()
def test_a_copy_remembers_left_padding(model: OpenMythos, kind: str, order: str) -> None:
    prompt, left, right = ids(2, 5), ids(2, 2), ids(2, 2)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    full = torch.cat((mask, torch.ones(2, 2, dtype=torch.int64)), dim=1)
    cache: Cache = {}
    model(prompt, 2, cache, attention_mask=mask)
    branch = COPIES[kind](cache)
    if order == "branch_last" and kind != "same":
        model(left, 2, cache)
    got = model(right, 2, branch)
    whole = model(torch.cat((prompt, right), dim=1), 2, attention_mask=full)
    close(got, whole[:, 5:])


@torch.no_grad()
def test_clones_with_the_whole_mask_given_know_the_padding(model: OpenMythos) -> None:
    prompt, more = ids(2, 5), ids(2, 2)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    full = torch.cat((mask, torch.ones(2, 2, dtype=torch.int64)), dim=1)
    cache: Cache = {}
    model(prompt, 2, cache, attention_mask=mask)
    got = model(more, 2, clones(cache), attention_mask=full)
    close(got, model(torch.cat((prompt, more), dim=1), 2, attention_mask=full)[:, 5:])


@torch.no_grad()
def test_cutting_every_entry_truncates(model: OpenMythos) -> None:
    prompt, more = ids(2, 6), ids(2, 2)
    cache: Cache = {}
    model(prompt, 2, cache)
    for entry in cache.values():
        for name in entry:
            entry[name] = entry[name][:, :4]
    close(model(more, 2, cache), model(torch.cat((prompt[:, :4], more), dim=1), 2)[:, 4:])


@torch.no_grad()
def test_reordering_rows_is_a_beam_search(model: OpenMythos) -> None:
    prompt, more = ids(3, 4), ids(3, 2)
    order = torch.tensor([2, 2, 0])
    cache: Cache = {}
    model(prompt, 2, cache)
    for entry in cache.values():
        for name in entry:
            entry[name] = entry[name][order]
    close(model(more, 2, cache), model(torch.cat((prompt[order], more), dim=1), 2)[:, 4:])


@torch.no_grad()
def test_fewer_rows_may_go_on(model: OpenMythos) -> None:
    prompt, more = ids(3, 4), ids(2, 2)
    cache: Cache = {}
    model(prompt, 2, cache)
    rest = {k: {n: t[1:] for n, t in v.items()} for k, v in cache.items()}
    close(model(more, 2, rest), model(torch.cat((prompt[1:], more), dim=1), 2)[:, 4:])


@torch.no_grad()
def test_writing_into_an_entry_is_seen(model: OpenMythos) -> None:
    one, other, more = ids(1, 4), ids(1, 4), ids(1, 1)
    mine: Cache = {}
    theirs: Cache = {}
    model(one, 2, mine)
    model(other, 2, theirs)
    for key, entry in mine.items():
        for name, tensor in entry.items():
            tensor.copy_(theirs[key][name])
    close(model(more, 2, mine), model(torch.cat((other, more), dim=1), 2)[:, -1:])


@torch.no_grad()
def test_one_dict_serves_one_model_after_another(model: OpenMythos) -> None:
    prompt, more = ids(1, 4), ids(1, 2)
    cache: Cache = {}
    model(prompt, 2, cache)
    cache.clear()
    model(prompt, 3, cache)
    close(model(more, 3, cache), model(torch.cat((prompt, more), dim=1), 3)[:, 4:])


@torch.no_grad()
def test_loops_are_fixed_by_the_first_call(model: OpenMythos) -> None:
    cache: Cache = {}
    model(ids(1, 3), 2, cache)
    for kind in ("same", "clones"):
        with pytest.raises(CacheError, match="loops"):
            model(ids(1, 1), 3, COPIES[kind](cache))
        out = model(ids(1, 1), None, COPIES[kind](cache), return_output=True)
        assert out.n_loops == 2


def lose(*names: str) -> Callable[[Cache], None]:
    def change(cache: Cache) -> None:
        for key in list(cache):
            if key.startswith(names):
                del cache[key]

    return change


def shorten(cache: Cache) -> None:
    cache["coda_0"] = {n: t[:, :2] for n, t in cache["coda_0"].items()}


def rename(cache: Cache) -> None:
    cache["odd"] = cache.pop("coda_0")


def widen(cache: Cache) -> None:
    cache["coda_0"] = {n: torch.cat((t, t), dim=-1) for n, t in cache["coda_0"].items()}


def empty_entry(cache: Cache) -> None:
    cache["coda_0"] = {}


def half_entry(cache: Cache) -> None:
    cache["coda_0"] = dict(list(cache["coda_0"].items())[:1])


def fewer_rows(cache: Cache) -> None:
    cache["coda_0"] = {n: t[:1] for n, t in cache["coda_0"].items()}


@pytest.mark.parametrize(
    "damage",
    [
        lose("coda"),
        lose("prelude_1"),
        lose("recurrent_loop_0"),
        lose("recurrent"),
        lose("prelude", "coda"),
        shorten,
        rename,
        widen,
        empty_entry,
        half_entry,
        fewer_rows,
    ],
    ids=[
        "no_coda",
        "one_prelude",
        "loop_0_missing",
        "no_loops",
        "loops_only",
        "shorter",
        "renamed",
        "wider",
        "empty",
        "half",
        "fewer_rows",
    ],
)
@torch.no_grad()
def test_a_damaged_dict_is_refused(model: OpenMythos, damage: Callable[[Cache], None]) -> None:
    cache: Cache = {}
    model(ids(2, 4), 2, cache)
    damage(cache)
    with pytest.raises(CacheError):
        model(ids(2, 1), 2, cache)


@pytest.mark.parametrize("kind", ["same", "clones"])
@pytest.mark.parametrize("rows", [1, 3])  # one row would broadcast into every row of the cache
@torch.no_grad()
def test_another_batch_is_refused(model: OpenMythos, kind: str, rows: int) -> None:
    cache: Cache = {}
    model(ids(2, 4), 2, cache)
    with pytest.raises(CacheError, match="rows"):
        model(ids(rows, 1), 2, COPIES[kind](cache))


@pytest.mark.parametrize("kind", ["same", "clones"])
@pytest.mark.parametrize("changes", [{"coda_layers": 2}, {"prelude_layers": 1}, {"other": True}])
@torch.no_grad()
def test_another_models_dict_is_refused(
    model: OpenMythos,
    kind: str,
    changes: dict[str, Any],
    tiny_config: Callable[..., MythosConfig],
) -> None:
    mine = model.cfg.attn_type
    if changes.get("other"):
        changes = {"attn_type": {"gqa": "mla", "mla": "gqa"}[mine]}
    other = OpenMythos(tiny_config(**{"attn_type": mine, "prelude_layers": 2, **changes})).double()
    cache: Cache = {}
    other(ids(1, 3), 2, cache)
    with pytest.raises(CacheError):
        model(ids(1, 1), 2, COPIES[kind](cache))


# -- loops that share their keys -------------------------------------------------------------------


@pytest.fixture(params=["first", "last"])
def sharing(
    request: pytest.FixtureRequest,
    attn_type: str,
    tiny_config: Callable[..., MythosConfig],
    randomised: Any,
) -> OpenMythos:
    cfg = tiny_config(attn_type=attn_type, kv=request.param)
    net: OpenMythos = randomised(OpenMythos(cfg).double().eval())
    return net


@pytest.mark.parametrize("kind", COPIES)
@torch.no_grad()
def test_shared_keys_have_one_entry_and_copies_of_it_are_read_anew(
    sharing: OpenMythos, kind: str
) -> None:
    prompt, more = ids(2, 4), ids(2, 3)
    typed = sharing.new_cache(2, 9)
    sharing(prompt, 3, typed)
    want = sharing(more, 3, typed)
    cache: Cache = {}
    sharing(prompt, 3, cache)
    assert set(cache) == {"prelude_0", "recurrent_loop_0", "coda_0"}
    branch = COPIES[kind](cache)
    close(sharing(more, 3, branch), want)
    assert set(branch) == {"prelude_0", "recurrent_loop_0", "coda_0"}
    assert branch["recurrent_loop_0"][next(iter(branch["recurrent_loop_0"]))].shape[1] == 7


@torch.no_grad()
def test_shared_keys_can_be_cut_and_reordered(sharing: OpenMythos) -> None:
    prompt, more, order = ids(3, 6), ids(3, 2), torch.tensor([2, 2, 0])
    cache: Cache = {}
    sharing(prompt, 3, cache)
    for entry in cache.values():
        for name in entry:
            entry[name] = entry[name][order, :4]
    typed = sharing.new_cache(3, 9)
    sharing(prompt[order, :4], 3, typed)
    close(sharing(more, 3, cache), sharing(more, 3, typed))


@torch.no_grad()
def test_a_dict_of_more_loops_does_not_fit_where_they_share(sharing: OpenMythos) -> None:
    cache: Cache = {}
    sharing(ids(2, 4), 3, cache)
    extra = clones(cache)
    extra["recurrent_loop_1"] = extra["recurrent_loop_0"]
    with pytest.raises(CacheError, match="recurrent_loop_1"):
        sharing(ids(2, 1), 3, extra)
    with pytest.raises(CacheError, match="filled with 3 loops"):
        sharing(ids(2, 1), 2, cache)


@torch.no_grad()
def test_the_loop_by_hand_fills_one_entry_where_keys_are_shared(sharing: OpenMythos) -> None:
    cfg, loop = sharing.cfg, sharing.recurrent
    e = torch.randn(2, 4, cfg.dim, dtype=torch.float64)
    table = precompute_rope_freqs(cfg.rope_dim, 4, cfg.rope_theta)
    mask = torch.full((4, 4), float("-inf"), dtype=torch.float64).triu(1)
    want = loop(e, e, table, mask, 3)
    cache: Cache = {}
    got = [loop(e[:, :3], e[:, :3], table, mask[:3, :3], 3, cache)]
    close(got[0], want[:, :3])
    assert set(cache) == {"recurrent_loop_0"}
    last = loop(e[:, 3:], e[:, 3:], table[3:], None, 3, cache)
    assert cache["recurrent_loop_0"][next(iter(cfg.cache_widths))].shape[1] == 4
    if cfg.kv == "first":
        close(last, want[:, 3:])
