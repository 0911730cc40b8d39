"""What a caller may say of exits."""

from typing import Any

import pytest
import torch

from open_mythos.checkpoint.exit_file import StoredExit
from open_mythos.errors import ConfigError, InputError
from open_mythos.model.leaving import Foresight, untrained
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.exits.predictions import Oracle
from open_mythos.nn.loop.exits.registry import exit_named


IDS = torch.arange(8).view(2, 4)


@pytest.fixture
def build(tiny_config: Any, randomised: Any) -> Any:
    def make(**changes: Any) -> OpenMythos:
        model: OpenMythos = randomised(OpenMythos(tiny_config(**changes)).eval())
        return model

    return make


def test_foresight_is_the_head_past_the_coda(build: Any) -> None:
    model, h = build(), torch.randn(2, 4, 16)
    logs = Foresight(model.norm, model.head)(h)
    torch.testing.assert_close(logs, torch.log_softmax(model.head(model.norm(h)), -1))
    assert Foresight(model.norm.bfloat16(), model.head.bfloat16())(h.bfloat16()).dtype == (
        torch.float32
    )


def test_a_gate_that_nobody_trained_is_refused(tiny_config: Any) -> None:
    fresh = OpenMythos(tiny_config(readout="last")).eval()
    assert untrained(fresh.recurrent.act)
    for name in ("gate", "act"):
        with pytest.raises(InputError, match=rf"'{name}' needs a gate.*nobody trained"):
            fresh(IDS, 3, exit=name)
    with torch.no_grad():
        fresh.recurrent.act.halt.bias.add_(0.1)
        fresh(IDS, 3, exit="gate")
        OpenMythos(tiny_config(readout="act_last")).eval()(IDS, 3, exit="gate")


def test_exits_are_for_inference(build: Any) -> None:
    model = build(readout="last").train()
    with pytest.raises(InputError, match=r"exit 'latent' was given in training mode.*model\.eval"):
        model(IDS, 3, exit="latent:0.1")
    with torch.no_grad():
        model(IDS, 3, exit="latent:0.1")
    model.eval()(IDS, 3, exit="latent:0.1")


def test_wrong_names_and_thresholds(build: Any) -> None:
    model = build()
    with pytest.raises(ConfigError, match="did you mean 'latent'"):
        model(IDS, 3, exit="latnet:0.1")
    with pytest.raises(ConfigError, match=r"threshold of exit 'kl' is -1\.0"):
        model.generate(IDS, 1, 3, exit="kl:-1")
    with pytest.raises(InputError, match="exit is 3; give a name"):
        model(IDS, 3, exit=3)
    with pytest.raises(InputError, match="one n_loops for all rows"):
        model(IDS, [2, 3], exit=Oracle(IDS))


def test_the_calibrated_exit_and_its_loops(build: Any) -> None:
    model = build(readout="last")
    with pytest.raises(InputError, match="nothing was calibrated for this model"):
        model(IDS, 3, exit="calibrated")
    model.calibrated = StoredExit(exit_named("latent:0.4"), 5, 0.01, "loss")
    for told, n_loops in ((None, 5), (2, 2)):
        got = model(IDS, told, exit="calibrated")
        assert torch.equal(got, model(IDS, n_loops, exit="latent:0.4"))


def test_static_decoding_and_exits_exclude_each_other(build: Any) -> None:
    with pytest.raises(InputError, match="leave static or exit out"):
        build().generate(IDS, 2, 3, static=True, exit="latent")
