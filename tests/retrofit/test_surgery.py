"""One loop of the looped network says what transformers' own model says."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import nn

from open_mythos.errors import CheckpointError, ConfigError
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.rotary import rotary
from open_mythos.retrofit.fold import Shared
from open_mythos.retrofit.surgery import Plan, Start, retrofit


Pretrained = Callable[..., tuple[Any, Any]]


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, use_cache=False).logits


def without(model: Any, kept: list[int]) -> Any:
    """The source, cut down by its own library."""
    model.model.layers = nn.ModuleList(model.model.layers[i] for i in kept)
    model.config.num_hidden_layers = len(kept)
    return model


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 6}),
        ("llama", {"head_dim": 10}),
        ("mistral", {"sliding_window": None}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 12, "tie_word_embeddings": True}),
    ],
)
@pytest.mark.parametrize("start", get_args(Start))
def test_one_loop_is_the_source(
    pretrained: Pretrained, family: str, changes: dict[str, Any], start: Start
) -> None:
    model, folder = pretrained(family, **changes)
    loops = 1 if start == "substep" else 4  # there the step's length is 1 / loops
    made = retrofit(folder, Plan(prelude=1, core=2, coda=2, start=start, carry=0.3, loops=loops))
    ids = torch.randint(0, 61, (2, 17))
    want = logits(model, ids)
    with torch.no_grad():
        torch.testing.assert_close(made.model(ids, 1), want, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(made.model(ids, 2), want, atol=1e-2)


def test_with_dropped_layers_it_is_the_source_without_them(pretrained: Pretrained) -> None:
    model, folder = pretrained("qwen2")
    made = retrofit(folder, Plan(prelude=1, core=1, coda=1, core_start=2))
    assert made.cut.dropped == (1, 3)
    ids = torch.randint(0, 61, (2, 9))
    want = logits(without(model, [0, 2, 4]), ids)
    with torch.no_grad():
        torch.testing.assert_close(made.model(ids, 1), want, rtol=1e-4, atol=1e-4)


def test_later_loops_read_the_mix_that_was_asked_for(pretrained: Pretrained) -> None:
    """Two loops by transformers' own layers: the core again, on carry h + (1 - carry) e."""
    model, folder = pretrained("qwen3")
    ids = torch.randint(0, 61, (1, 8))
    where = torch.arange(8).unsqueeze(0)
    inner = model.model
    carry = 0.3

    def through(x: torch.Tensor, layers: range) -> torch.Tensor:
        hidden = torch.full((8, 8), float("-inf")).triu(1)[None, None]
        for i in layers:
            x = inner.layers[i](
                x, attention_mask=hidden, position_embeddings=inner.rotary_emb(x, where)
            )
        return x

    with torch.no_grad():
        e = through(inner.embed_tokens(ids), range(2))
        h = through(e, range(2, 4))
        h = through(carry * h + (1 - carry) * e, range(2, 4))
        want = model.lm_head(inner.norm(through(h, range(4, 5))))
        for start in ("lti_first", "concat_linear"):
            made = retrofit(folder, Plan(prelude=2, core=2, coda=1, start=start, carry=carry))  # type: ignore[arg-type]
            torch.testing.assert_close(made.model(ids, 2), want, rtol=1e-4, atol=1e-4)


def test_substeps_are_euler_steps_of_the_core(pretrained: Pretrained) -> None:
    """h <- h + (core(h) - h) / n, n times, by loops of a network that takes whole steps."""
    _, folder = pretrained("llama")
    ids = torch.randint(0, 61, (1, 8))
    whole = retrofit(folder, Plan(prelude=2, core=2, coda=1, start="none", loops=1)).model
    made = retrofit(folder, Plan(prelude=2, core=2, coda=1, start="substep", loops=3)).model
    with torch.no_grad():
        tables = rotary(torch.arange(8), whole.cfg.rope_dim, whole.cfg.rope_theta)
        context = AttentionContext(tables, causal=True)
        h = whole.prelude[1].run(whole.prelude[0].run(whole.embed(ids), context)[0], context)[0]
        for _ in range(3):
            f = h
            for block in whole.recurrent.blocks:
                f = block.run(f, context)[0]
            h = h + (f - h) / 3
        want = whole.head(whole.norm(whole.coda[0].run(h, context)[0]))
        torch.testing.assert_close(made(ids, 3), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shared", get_args(Shared))
def test_folded_at_full_rank_all_loops_together_are_the_source(
    pretrained: Pretrained, shared: Shared
) -> None:
    model, folder = pretrained("llama", num_hidden_layers=8, rms_norm_eps=1e-5)
    plan = Plan(prelude=1, core=2, coda=1, loops=3, start="none", lora_rank=999, shared=shared)
    made = retrofit(folder, plan)
    assert (made.cut.core, made.cut.dropped) == (range(1, 7), ())
    ids = torch.randint(0, 61, (2, 17))
    want = logits(model, ids)
    with torch.no_grad():
        torch.testing.assert_close(made.model(ids), want, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(made.model(ids), made.model(ids, 3))
        assert not torch.allclose(made.model(ids, 2), want, atol=1e-2)


def test_folded_at_low_rank_it_comes_nearer_with_the_rank(pretrained: Pretrained) -> None:
    _, folder = pretrained("llama", num_hidden_layers=6)
    base = Plan(prelude=1, core=2, coda=1, loops=2, start="none", lora_rank=0)
    full = retrofit(folder, replace(base, lora_rank=48)).model
    part: Any = full.recurrent.corrections[1]
    want = part.gate_up_up @ part.gate_up_down
    errors = []
    for rank in (0, 1, 8, 40):
        made = retrofit(folder, replace(base, lora_rank=rank)).model
        kept = torch.zeros_like(want)
        if rank:
            own: Any = made.recurrent.corrections[1]
            kept = own.gate_up_up @ own.gate_up_down
            left = torch.linalg.svdvals(want)[:, rank:].square().sum()
            torch.testing.assert_close((want - kept).square().sum(), left)
        errors.append((want - kept).square().sum().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 * errors[0]


@pytest.mark.parametrize(("family", "named"), [("qwen2", "attention_bias"), ("qwen3", "qk_norm")])
def test_layers_that_differ_in_more_than_maps_are_not_folded(
    pretrained: Pretrained, family: str, named: str
) -> None:
    _, folder = pretrained(family)
    with pytest.raises(ConfigError, match=named):
        retrofit(folder, Plan(prelude=1, core=1, coda=1, loops=3, start="none", lora_rank=2))


def test_weights_without_a_place_are_refused(pretrained: Pretrained) -> None:
    # A Qwen2 whose config says that it is a Llama: its biases would be lost without a word.
    _, folder = pretrained("qwen2", {"model_type": "llama"})
    with pytest.raises(CheckpointError, match="bias"):
        retrofit(folder, Plan(prelude=1, core=1, coda=1))


def test_missing_weights_are_named(pretrained: Pretrained) -> None:
    _, folder = pretrained("llama", {"model_type": "qwen3"})
    with pytest.raises(CheckpointError, match="q_norm"):
        retrofit(folder, Plan(prelude=1, core=1, coda=1))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"start": "lti"}, "lti_first"),
        ({"carry": 1.0}, "carry"),
        ({"lora_rank": 4}, "start='none'"),
        ({"lora_rank": -1, "start": "none"}, "lora_rank is -1"),
        ({"shared": "mean"}, "average"),
    ],
)
def test_plans_that_cannot_be(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Plan(prelude=1, core=1, coda=1, **changes)
