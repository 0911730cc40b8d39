"""transformers' own laws of a model, held against the network as this library runs it."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import TextIteratorStreamer, TextStreamer
from transformers.cache_utils import DynamicCache

from open_mythos.checkpoint.exit_file import StoredExit
from open_mythos.checkpoint.files import MANIFEST
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.errors import CheckpointError, InputError
from open_mythos.hf.cache import CACHE_NAME, LoopCache
from open_mythos.hf.config import OpenMythosConfig
from open_mythos.hf.modeling import OpenMythosForCausalLM
from open_mythos.hf.tokenizer import fast_tokenizer
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.exits.registry import exit_named


# Where no mask is given, transformers takes every token 0 of a prompt for padding.
GREEDY = {"do_sample": False, "pad_token_id": 0}
KINDS: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mla": {"attn_type": "mla", "core_layers": 2},
    "first keys": {"kv": "first", "halted": "freeze"},
    "dense": {"core_ffn": "dense", "injection": "hyper", "readout": "last", "core_layers": 2},
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def model(request: pytest.FixtureRequest, hf_model: Callable[..., Any]) -> Any:
    return hf_model(**request.param)


def grad(model: Any, ids: torch.Tensor, **how: Any) -> torch.Tensor:
    found = torch.autograd.grad(
        model(ids, labels=ids, **how).loss, model.model.prelude[0].attn.wo.weight
    )
    return found[0]


def checkpointing(model: Any, on: bool) -> None:
    """By the name that the installed transformers has for it."""
    word = "enable" if on else "disable"
    old, new = (
        getattr(model, f"{n}_checkpointing_{word}", None) for n in ("gradient", "activation")
    )
    (new or old)()


# -- the pass -------------------------------------------------------------------------------------


def test_it_starts_as_the_network_does_and_says_the_same(any_config: Any) -> None:
    torch.manual_seed(5)
    native = OpenMythos(any_config).eval()
    torch.manual_seed(5)
    model = OpenMythosForCausalLM(OpenMythosConfig.of(any_config)).eval()
    for name, value in native.state_dict().items():
        assert torch.equal(model.state_dict()[f"model.{name}"], value)
    ids = torch.randint(37, (2, 6))
    assert torch.equal(model(ids).logits, native(ids))
    assert torch.equal(model(ids, num_loops=2).logits, native(ids, 2))
    assert torch.equal(
        model(ids, use_cache=False, exit="fixed:1").logits, native(ids, exit="fixed:1")
    )


def test_padding_on_either_side_changes_nothing_for_real_tokens(model: Any) -> None:
    short, pad = torch.randint(37, (1, 4)), torch.randint(37, (1, 3))
    want = model(short).logits
    left = model(
        torch.cat((pad, short), 1), attention_mask=torch.tensor([[0] * 3 + [1] * 4])
    ).logits
    right = model(
        torch.cat((short, pad), 1), attention_mask=torch.tensor([[1] * 4 + [0] * 3])
    ).logits
    torch.testing.assert_close(left[:, 3:], want)
    torch.testing.assert_close(right[:, :4], want)


def test_a_mask_that_hides_nothing_is_no_mask(model: Any) -> None:
    ids = torch.randint(37, (2, 5))
    assert torch.equal(model(ids, attention_mask=torch.ones(2, 5)).logits, model(ids).logits)


def test_documents_packed_into_a_row_are_read_as_if_alone(model: Any) -> None:
    ids = torch.randint(37, (1, 9))
    where = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    packed = model(ids, position_ids=where, use_cache=False).logits
    torch.testing.assert_close(packed[:, :4], model(ids[:, :4]).logits)
    torch.testing.assert_close(packed[:, 4:], model(ids[:, 4:]).logits)


def test_logits_of_some_positions_are_those_among_all(model: Any) -> None:
    ids = torch.randint(37, (2, 6))
    whole = model(ids).logits
    torch.testing.assert_close(model(ids, logits_to_keep=2).logits, whole[:, -2:])
    torch.testing.assert_close(model(ids, logits_to_keep=0).logits, whole)
    torch.testing.assert_close(
        model(ids, logits_to_keep=torch.tensor([1, 4])).logits, whole[:, [1, 4]]
    )


def test_the_loss_is_the_next_tokens_and_minus_100_is_not_asked(model: Any) -> None:
    ids, labels = torch.randint(37, (2, 6)), torch.randint(37, (2, 6))
    labels[0, 3:], labels[1, 1] = -100, -100
    found = model(ids, labels=labels)
    flat = found.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    torch.testing.assert_close(found.loss, F.cross_entropy(*flat))
    assert found[CACHE_NAME] is None if CACHE_NAME in found else True
    summed = model(ids, labels=labels, num_items_in_batch=torch.tensor(4)).loss
    torch.testing.assert_close(summed, F.cross_entropy(*flat, reduction="sum") / 4)


def test_rows_may_have_depths_of_their_own_and_a_record_says_what_happened(hf_model: Any) -> None:
    model, ids = hf_model(), torch.randint(37, (2, 5))
    mixed = model(ids, num_loops=torch.tensor([1, 3]), use_cache=False, output_loops=True)
    torch.testing.assert_close(mixed.logits[:1], model(ids[:1], num_loops=1).logits)
    torch.testing.assert_close(mixed.logits[1:], model(ids[1:], num_loops=3).logits)
    assert mixed.loops_used.shape == (2, 5)
    assert mixed.ponder_cost.dim() == 0
    assert torch.equal(model.model.head(mixed.features), mixed.logits)


def test_the_configs_own_loops_and_exit_are_used_in_evaluation(hf_model: Any) -> None:
    model = hf_model(num_loops=2, exit="fixed:1")
    ids = torch.randint(37, (2, 5))
    assert torch.equal(model(ids, use_cache=False).logits, model.model(ids, 2, exit="fixed:1"))
    model.train()
    assert torch.equal(model(ids).logits, model.model(ids, 2))


def test_a_tuple_if_that_is_wanted(hf_model: Any) -> None:
    model, ids = hf_model(use_cache=False), torch.randint(37, (1, 4))
    loss, logits = model(ids, labels=ids, return_dict=False)
    assert torch.equal(logits, model(ids).logits)
    assert loss.dim() == 0


def test_gradients_are_those_of_the_plain_pass_when_loops_are_computed_again(model: Any) -> None:
    ids = torch.randint(37, (2, 6))
    model.train()
    want = grad(model, ids)
    turn = type(model.model.recurrent).turn
    calls = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return turn(model.model.recurrent, *args, **kwargs)

    model.model.recurrent.turn = counted
    checkpointing(model, True)
    torch.testing.assert_close(grad(model, ids), want)
    assert len(calls) == 2 * model.config.max_loop_iters
    assert model.model.recurrent.turn is counted
    checkpointing(model, False)
    grad(model, ids)
    assert len(calls) == 3 * model.config.max_loop_iters
    torch.testing.assert_close(grad(model, ids, backprop_loops=9), want)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n_loops": 2}, "num_loops"),
        ({"kv_cache": None}, CACHE_NAME),
        ({"inputs_embeds": torch.zeros(1, 2, 16)}, "inputs_embeds"),
        ({"output_attentions": True}, "output_attentions"),
        ({"output_hidden_states": True}, "read_loops"),
        ({"input_ids": None}, "input_ids"),
        ({"num_loops": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    hf_model: Any, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        hf_model()(**{"input_ids": torch.zeros(1, 2, dtype=torch.int64), **wrong})


# -- generation -----------------------------------------------------------------------------------


def test_greedy_tokens_are_the_librarys_own_cached_or_not(model: Any) -> None:
    ids = torch.randint(1, 37, (2, 5))
    want = model.model.generate(ids, 6, n_loops=2, temperature=0.0)
    for cached in (True, False):
        got = model.generate(ids, max_new_tokens=6, num_loops=2, use_cache=cached, **GREEDY)
        assert torch.equal(got, want)


def test_a_batch_padded_on_the_left_continues_as_each_row_alone(model: Any) -> None:
    ids = torch.randint(1, 37, (2, 5))
    mask = torch.tensor([[0, 0, 1, 1, 1], [1] * 5])
    both = model.generate(ids, attention_mask=mask, max_new_tokens=5, **GREEDY)
    for row, start in ((0, 2), (1, 0)):
        alone = model.generate(ids[row : row + 1, start:], max_new_tokens=5, **GREEDY)
        assert torch.equal(both[row, start:], alone[0])


def test_beams_are_the_same_with_and_without_a_cache(model: Any) -> None:
    ids = torch.randint(1, 37, (2, 4))
    mask = torch.tensor([[0, 1, 1, 1], [1] * 4])
    how = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5, "attention_mask": mask}
    cached = model.generate(ids, **how, **GREEDY)
    assert cached.shape[0] == 4
    assert torch.equal(cached, model.generate(ids, **how, use_cache=False, **GREEDY))


def test_a_draft_by_fewer_loops_changes_no_token(model: Any) -> None:
    ids = torch.randint(1, 37, (1, 5))
    want = model.generate(ids, max_new_tokens=8, **GREEDY)
    draft = OpenMythosForCausalLM.of(model.model, num_loops=1).eval()
    calls: list[int] = []
    model.model.register_forward_pre_hook(lambda _, args: calls.append(args[0].shape[1]))
    got = model.generate(ids, max_new_tokens=8, assistant_model=draft, **GREEDY)
    assert torch.equal(got, want)
    assert max(calls[1:]) > 1  # several tokens were judged at once


def test_a_prompt_looked_up_changes_no_token(hf_model: Any) -> None:
    model, ids = hf_model(), torch.tensor([[3, 4, 5, 3, 4, 5, 3]])
    want = model.generate(ids, max_new_tokens=6, **GREEDY)
    got = model.generate(ids, max_new_tokens=6, prompt_lookup_num_tokens=3, **GREEDY)
    assert torch.equal(got, want)


def test_a_conversation_goes_on_from_its_cache(hf_model: Any) -> None:
    model, ids = hf_model(), torch.randint(1, 37, (1, 5))
    cache = LoopCache()
    first = model.generate(ids, max_new_tokens=3, **{CACHE_NAME: cache}, **GREEDY)
    longer = torch.cat((first, torch.randint(1, 37, (1, 2))), dim=1)
    assert 0 < cache.get_seq_length() < longer.shape[1]
    got = model.generate(longer, max_new_tokens=3, **{CACHE_NAME: cache}, **GREEDY)
    assert torch.equal(got, model.generate(longer, max_new_tokens=3, **GREEDY))


def test_exits_and_sampling_go_through(hf_model: Any) -> None:
    model, ids = hf_model(), torch.randint(1, 37, (2, 4))
    got = model.generate(ids, max_new_tokens=4, num_loops=3, exit="fixed:1", **GREEDY)
    assert torch.equal(got, model.model.generate(ids, 4, 3, 0.0, exit="fixed:1"))
    drawn = model.generate(ids, max_new_tokens=4, do_sample=True, top_k=3, pad_token_id=0)
    assert drawn.shape == (2, 8)


def test_streamers_say_what_is_returned(hf_model: Any) -> None:
    model = hf_model(vocab_size=257)
    tokenizer = fast_tokenizer(ByteTokenizer())
    ids = tokenizer("ab", return_tensors="pt")["input_ids"]
    seen: list[str] = []

    class Kept(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            seen.append(text)

    out = model.generate(ids, max_new_tokens=6, streamer=Kept(tokenizer), **GREEDY)
    assert "".join(seen) == tokenizer.decode(out[0])
    later = TextIteratorStreamer(tokenizer, timeout=5.0)
    model.generate(ids, max_new_tokens=6, streamer=later, **GREEDY)
    assert "".join(later) == tokenizer.decode(out[0])


def test_a_foreign_cache_or_kind_of_cache_or_word_is_refused(hf_model: Any) -> None:
    model, ids = hf_model(), torch.randint(1, 37, (1, 4))
    with pytest.raises(InputError, match="LoopCache"):
        model.generate(ids, max_new_tokens=2, **{CACHE_NAME: DynamicCache()}, **GREEDY)
    with pytest.raises(InputError, match="static"):
        model.generate(ids, max_new_tokens=2, cache_implementation="static", **GREEDY)
    with pytest.raises(ValueError, match="n_loops"):
        model.generate(ids, max_new_tokens=2, n_loops=2, **GREEDY)


# -- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["50GB", "2KB"], ids=["whole", "sharded"])
def test_a_folder_is_read_by_transformers_and_by_this_library(
    model: Any, part: str, tmp_path: Path
) -> None:
    ids = torch.randint(37, (2, 6))
    model.save_pretrained(tmp_path, max_shard_size=part)
    again = OpenMythosForCausalLM.from_pretrained(tmp_path)
    assert not again.training
    ours = OpenMythos.from_pretrained(tmp_path)
    for name, weight in model.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight), name
        assert torch.equal(ours.state_dict()[name], weight), name
    # Not to the last bit: a product rounds by how its weights lie in memory, and these are mapped.
    for logits in (again(ids).logits, ours(ids)):
        torch.testing.assert_close(logits, model(ids).logits, rtol=0, atol=1e-6)
    assert again.model.head.weight is again.model.embed.weight


def test_a_folder_of_this_library_is_read_with_its_exit_and_written_over(
    hf_model: Any, tmp_path: Path
) -> None:
    model, ids = hf_model(readout="last"), torch.randint(37, (2, 6))
    model.model.save_pretrained(tmp_path)
    again = OpenMythosForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, model(ids).logits)
    again.model.calibrated = StoredExit(exit_named("fixed:2"), 3, 0.01, "accuracy")
    again.save_pretrained(tmp_path)
    assert not (tmp_path / MANIFEST).exists()
    for kind in (OpenMythosForCausalLM, OpenMythos):
        third = kind.from_pretrained(tmp_path)
        network = getattr(third, "model", third)
        assert torch.equal(network(ids, exit="calibrated"), model.model(ids, 2))
    kept = OpenMythosForCausalLM.from_pretrained(tmp_path)
    kept.save_pretrained(tmp_path)
    assert OpenMythosForCausalLM.from_pretrained(tmp_path).model.calibrated is not None
    with torch.no_grad():
        kept.model.norm.weight.mul_(1.1)
    kept.save_pretrained(tmp_path)  # the exit was not measured on these
    assert OpenMythosForCausalLM.from_pretrained(tmp_path).model.calibrated is None


def test_a_missing_weight_is_refused_by_name(hf_model: Any, tmp_path: Path) -> None:
    hf_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.prelude.0.attn.wo.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"prelude\.0\.attn\.wo"):
        OpenMythosForCausalLM.from_pretrained(tmp_path)


def test_half_precision_leaves_the_routers_bias_wide(hf_model: Any, tmp_path: Path) -> None:
    model = hf_model()
    model.save_pretrained(tmp_path)
    half = OpenMythosForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    mixture, other = half.model.recurrent.block.ffn, model.model.recurrent.block.ffn
    assert half.model.embed.weight.dtype == torch.bfloat16
    assert torch.equal(mixture.router_bias, other.router_bias)
    assert not mixture.load.any()


@pytest.mark.parametrize("rows", [45, 30])
def test_the_vocabulary_can_be_resized(hf_model: Any, rows: int, tmp_path: Path) -> None:
    model, ids = hf_model(), torch.randint(30, (2, 6))
    before = model(ids).logits
    model.resize_token_embeddings(rows, mean_resizing=False)
    after = model(ids).logits
    assert after.shape[-1] == rows
    torch.testing.assert_close(after[..., :30], before[..., :30])
    model(torch.tensor([[rows - 1]]))
    with pytest.raises(InputError, match=f"0 .. {rows - 1}"):
        model(torch.tensor([[rows]]))
    model.save_pretrained(tmp_path)
    assert torch.equal(OpenMythos.from_pretrained(tmp_path)(ids), after)


def test_a_network_of_ours_is_shared_not_copied(tiny_config: Any) -> None:
    network = OpenMythos(tiny_config()).train()
    model = OpenMythosForCausalLM.of(network, num_loops=2)
    assert model.model is network
    assert model.training
    assert model.config.num_loops == 2
    assert torch.equal(copy.deepcopy(model).model.embed.weight, network.embed.weight)


def test_a_card_goes_with_the_weights_unless_somebody_wrote_one(
    hf_model: Any, tmp_path: Path
) -> None:
    model = hf_model()
    model.save_pretrained(tmp_path)
    card = tmp_path / "README.md"
    assert card.read_text() == model.card()
    card.write_text("Mine.")
    model.save_pretrained(tmp_path)
    assert card.read_text() == "Mine."


def test_what_goes_to_the_hub_has_our_card_in_place_of_an_empty_one(
    hf_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import ModelCard, ModelCardData
    from transformers.utils import hub

    seen: dict[str, Any] = {}

    class Api:
        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Url", (), {"repo_id": repo_id})

    def keep(self: Any, folder: Any, repo_id: str, **_: Any) -> str:
        seen.update({path.name: path.read_bytes() for path in Path(folder).iterdir()})
        return repo_id

    def card(*_: Any, **__: Any) -> ModelCard:
        return ModelCard.from_template(ModelCardData(), model_description="generated")

    monkeypatch.setattr(hub, "hf_api", Api)
    monkeypatch.setattr(hub, "create_and_tag_model_card", card)
    monkeypatch.setattr(hub.PushToHubMixin, "_upload_modified_files", keep)
    model = hf_model()
    assert model.push_to_hub("me/mythos") == "me/mythos"
    assert seen["README.md"].decode() == model.card()
    assert {"config.json", "model.safetensors"} <= seen.keys()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_on_a_gpu_it_says_what_it_says_on_a_cpu(
    hf_model: Callable[..., Any], changes: dict[str, Any]
) -> None:
    model, ids = hf_model(**changes), torch.randint(1, 37, (2, 6))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    want = model(ids, attention_mask=mask).logits
    how = {"attention_mask": mask, "max_new_tokens": 5, "num_beams": 2, **GREEDY}
    tokens = model.generate(ids, **how)
    model.cuda()
    got = model(ids.cuda(), attention_mask=mask.cuda()).logits.cpu()
    torch.testing.assert_close(got[0, 2:], want[0, 2:], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(got[1], want[1], rtol=1e-3, atol=1e-3)
    how["attention_mask"] = mask.cuda()
    assert torch.equal(model.generate(ids.cuda(), **how).cpu(), tokens)


@pytest.mark.parametrize("parts", [{"tied_head": False}, {"qk_norm": True, "attention_bias": True}])
def test_parts_of_pretrained_models_are_saved_and_loaded(
    hf_model: Callable[..., Any], tmp_path: Path, parts: dict[str, Any]
) -> None:
    model = hf_model(attn_type="gqa", **parts)
    model.save_pretrained(tmp_path)
    again = OpenMythosForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.randint(0, model.config.vocab_size, (2, 7))
    with torch.no_grad():
        want, ours = model(ids).logits, OpenMythos.from_pretrained(tmp_path)
        for found in (again.model, ours):
            for name, weight in model.model.state_dict().items():
                assert torch.equal(found.state_dict()[name], weight), name
        for logits in (again(ids).logits, ours(ids)):  # see above: not to the last bit
            torch.testing.assert_close(logits, want)
    tied = again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert tied == model.config.tied_head
