"""transformers' Trainer and PEFT's LoRA on a network of ours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from open_mythos.hf.balance import RouterBalance
from open_mythos.hf.modeling import OpenMythosForCausalLM


DESIGNS: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mla": {"attn_type": "mla"},
    "first keys": {"attn_type": "mla", "kv": "first"},
    "dense": {"core_ffn": "dense", "core_layers": 2, "kv": "first"},
    "frozen": {"halted": "freeze", "injection": "hyper"},
}


class Counting(torch.utils.data.Dataset):
    """Rows that count upwards from anywhere: soon learnt."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = (torch.arange(8) + index) % 37
        return {"input_ids": ids, "labels": ids, "num_loops": 1 + index % 3}


def lora(**changes: Any) -> Any:
    peft = pytest.importorskip("peft", reason="peft, for LoRA")
    how = {"r": 4, "task_type": "CAUSAL_LM", "target_modules": ["wqkv", "wo", "gate_up", "down"]}
    return peft.LoraConfig(**{**how, **changes})


def trainer(model: Any, folder: Path, steps: int, **how: Any) -> Any:
    pytest.importorskip("accelerate", reason="accelerate, for transformers' Trainer")
    from transformers import Trainer, TrainingArguments

    callbacks = how.pop("callbacks", [])
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=8,
        learning_rate=how.pop("learning_rate", 0.02),
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1,
        seed=1,
        dataloader_pin_memory=False,
        **how,
    )
    return Trainer(model=model, args=arguments, train_dataset=Counting(), callbacks=callbacks)


def losses(made: Any) -> list[float]:
    return [entry["loss"] for entry in made.state.log_history if "loss" in entry]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks transformers by an older name
@pytest.mark.parametrize("targets", ["all-linear", ["wqkv", "wo", "gate_up", "down", "q_up"]])
@pytest.mark.parametrize("changes", DESIGNS.values(), ids=DESIGNS)
def test_an_adapter_counts_wherever_it_is_and_can_be_merged(
    hf_model: Callable[..., Any], changes: dict[str, Any], targets: Any
) -> None:
    config = lora(target_modules=targets, init_lora_weights=False)
    import peft

    ids = torch.randint(1, 37, (2, 6))
    wrapped = peft.get_peft_model(hf_model(**changes), config)
    wrapped.train()(input_ids=ids, labels=ids).loss.backward()
    adapters = {n: p for n, p in wrapped.named_parameters() if p.requires_grad}
    assert any(".wqkv." in n or ".down.lora" in n for n in adapters)
    assert all(p.grad is not None and p.grad.any() for p in adapters.values())
    wrapped.eval()
    say = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    logits, tokens = wrapped(input_ids=ids).logits, wrapped.generate(input_ids=ids, **say)
    merged = wrapped.merge_and_unload()
    assert type(merged) is OpenMythosForCausalLM
    torch.testing.assert_close(merged(ids).logits, logits)
    assert torch.equal(merged.generate(ids, **say), tokens)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_fifty_steps_of_lora_lower_the_loss_and_come_back_from_disk(
    hf_model: Callable[..., Any], tmp_path: Path
) -> None:
    config = lora()
    import peft

    model = hf_model()
    model.save_pretrained(tmp_path / "base")
    wrapped = peft.get_peft_model(model, config)
    made = trainer(wrapped, tmp_path / "out", 50, gradient_checkpointing=True)
    made.train()
    found = losses(made)
    assert sum(found[-5:]) < 0.8 * sum(found[:5])
    wrapped.save_pretrained(tmp_path / "adapter")
    base = OpenMythosForCausalLM.from_pretrained(tmp_path / "base")
    again = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ids = torch.randint(37, (2, 6))
    torch.testing.assert_close(again(input_ids=ids).logits, wrapped.eval()(input_ids=ids).logits)


def test_the_trainer_trains_saves_and_goes_on(hf_model: Callable[..., Any], tmp_path: Path) -> None:
    model = hf_model()
    made = trainer(model, tmp_path, 6, save_steps=3, callbacks=[RouterBalance()])
    bias = model.model.recurrent.block.ffn.router_bias.clone()
    made.train()
    assert losses(made)[-1] < losses(made)[0]
    assert not torch.equal(model.model.recurrent.block.ffn.router_bias, bias)
    assert not model.model.recurrent.block.ffn.load.any()
    again = trainer(hf_model(), tmp_path, 6, callbacks=[RouterBalance()])
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value)


def test_micro_batches_count_tokens_not_batches(
    hf_model: Callable[..., Any], tmp_path: Path
) -> None:
    one, two = hf_model(), hf_model()
    two.load_state_dict(one.state_dict())
    whole = trainer(one, tmp_path / "a", 1, max_grad_norm=0.0)
    parts = trainer(two, tmp_path / "b", 1, max_grad_norm=0.0, gradient_accumulation_steps=2)
    parts.args.per_device_train_batch_size = parts._train_batch_size = 4
    whole.train()
    parts.train()
    torch.testing.assert_close(losses(parts)[0], losses(whole)[0], rtol=1e-4, atol=1e-4)
