"""A recorded pass is the network's own, at shapes that nobody recorded."""

from pathlib import Path
from typing import Any

import pytest
import torch

from open_mythos.errors import InputError
from open_mythos.interop.graph import (
    Checked,
    FixedLoops,
    _plainly,
    checked,
    export_graph,
    fixed_loops,
    record,
)
from open_mythos.model.mythos import OpenMythos


SMALL = {"prelude_layers": 0, "coda_layers": 0, "core_ffn": "dense", "readout": "last"}


@pytest.mark.slow
def test_a_recorded_pass_runs_at_any_batch_and_length(tiny_config: Any, randomised: Any) -> None:
    model = randomised(OpenMythos(tiny_config(**SMALL, loop_lora=False))).eval()
    graph: Any = record(model, 1).module()
    for shape in ((1, 1), (4, 3), (1, model.cfg.max_seq_len)):
        ids = torch.randint(model.cfg.vocab_size, shape)
        torch.testing.assert_close(graph(ids), model(ids, 1), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("core", ["dense", "moe"])
def test_every_network_is_written_read_and_near(
    tiny_config: Any, randomised: Any, attn_type: str, core: str, tmp_path: Path
) -> None:
    model = randomised(OpenMythos(tiny_config(attn_type=attn_type, core_ffn=core)))
    found = export_graph(model, tmp_path / "model.pt2", 2)
    assert found.near
    loaded: Any = torch.export.load(tmp_path / "model.pt2").module()
    ids = torch.randint(model.cfg.vocab_size, (3, 7))
    torch.testing.assert_close(loaded(ids), model.eval()(ids, 2), rtol=0, atol=1e-5)


def test_loops_are_fixed_and_none_is_the_configs(tiny_config: Any, randomised: Any) -> None:
    model = randomised(OpenMythos(tiny_config())).eval()
    ids = torch.randint(model.cfg.vocab_size, (2, 4))
    assert torch.equal(fixed_loops(model, 2)(ids), model(ids, 2))
    assert fixed_loops(model, None).n_loops == model.cfg.max_loop_iters
    with pytest.raises(InputError, match="n_loops is 0"):
        fixed_loops(model, 0)


def test_a_graph_holds_what_has_fixed_shapes_and_the_model_is_as_before(
    tiny_config: Any, randomised: Any
) -> None:
    model = randomised(OpenMythos(tiny_config(attn_type="mla"))).eval()
    ids = torch.randint(model.cfg.vocab_size, (2, 4))
    mixture, latent = model.recurrent.block.ffn, model.recurrent.block.attn
    expected = model(ids, 2)
    with _plainly(model):
        assert (mixture.experts_backend, latent.form) == ("dense", "expanded")
        torch.testing.assert_close(model(ids, 2), expected, rtol=0, atol=1e-5)
    assert (mixture.experts_backend, latent.form) == ("auto", "auto")


def test_what_a_graph_cannot_hold_is_refused_by_name(tiny_config: Any) -> None:
    class Adapter(torch.nn.Module):
        """Stands where a linear map stood."""

    model = OpenMythos(tiny_config())
    with pytest.raises(InputError, match="model is on meta"):
        fixed_loops(OpenMythos(tiny_config()).to("meta"), 1)
    model.recurrent.block.attn.wo = Adapter()
    with pytest.raises(InputError, match=r"recurrent\.block\.attn\.wo is Adapter"):
        fixed_loops(model, 1)


def test_what_torch_cannot_record_is_said_in_its_words(
    tiny_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: FixedLoops, ids: torch.Tensor) -> torch.Tensor:
        return ids[: int(ids.sum())]

    monkeypatch.setattr(FixedLoops, "forward", broken)
    with pytest.raises(InputError, match=r"torch\.export cannot record this network: .+"):
        record(OpenMythos(tiny_config()), 1)


def test_another_runtimes_logits_are_held_against_ours(tiny_config: Any, randomised: Any) -> None:
    model = randomised(OpenMythos(tiny_config()))
    model.train()
    found = checked(model, 2, lambda ids: model(ids, 2) + 3e-5, "it")
    assert found.difference == pytest.approx(3e-5, rel=0.1)
    assert model.training
    with pytest.raises(InputError, match=r"it was written, but its logits lie"):
        checked(model, 2, lambda ids: model(ids, 3), "it")
    assert Checked(5e-4, 6.0).near
    assert not Checked(5e-4, 4.0).near
