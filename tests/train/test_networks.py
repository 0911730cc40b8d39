import pytest

from open_mythos.train.networks import small


@pytest.mark.parametrize("dim", [64, 128])
def test_scales_follow_the_width_and_the_last_state_is_read_after_a_short_carry(dim: int) -> None:
    found = small(vocab_size=10, dim=dim, max_seq_len=32)
    assert (found.readout, found.lti_decay) == ("last", 0.01)
    assert found.init_std == found.last_norm_init == pytest.approx(dim**-0.5)
    assert (found.vocab_size, found.max_seq_len, found.max_output_tokens) == (10, 32, 32)
