"""What public tutorials look at, and no pass reads."""

from collections.abc import Callable

import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.model.mythos import OpenMythos
from open_mythos.model.published import Published
from open_mythos.nn.rotary import precompute_rope_freqs


def test_tables_are_made_for_the_configs_own_sizes(
    tiny_config: Callable[..., MythosConfig],
) -> None:
    cfg = tiny_config(rope_theta=77.0)
    model = OpenMythos(cfg)
    assert isinstance(model, Published)
    for found, dim in ((model.freqs_cis, 4), (model.freqs_cis_mla, cfg.qk_rope_head_dim)):
        assert torch.equal(found, precompute_rope_freqs(dim, cfg.max_seq_len, 77.0))
    assert not [name for name, _ in model.named_buffers() if "freqs" in name]


def test_the_mask_hides_what_comes_later() -> None:
    mask = OpenMythos._causal_mask(3)
    assert mask.shape == (1, 1, 3, 3)
    for i in range(3):
        assert mask[0, 0, i].tolist() == [0.0 if j <= i else float("-inf") for j in range(3)]
