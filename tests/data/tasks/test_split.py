import numpy as np
import pytest

from open_mythos.data.tasks.split import HELD_OUT_IN, hashed, is_held_out


MASK = 2**64 - 1


def slow_hash(key: list[int]) -> int:
    def mixed(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    total = sum(value * (mixed((at * golden) & MASK) | 1) for at, value in enumerate(key, 1))
    return mixed(total & MASK)


def test_the_hash_is_what_plain_integers_give() -> None:
    keys = np.random.default_rng().integers(0, 2**40, size=(50, 7))
    assert hashed(keys).tolist() == [slow_hash(key) for key in keys.tolist()]
    assert hashed(keys[:, None, :]).shape == (50, 1)


def test_equal_rows_agree_and_others_do_not() -> None:
    keys = np.array(np.meshgrid(*[np.arange(7)] * 5)).reshape(5, -1).T
    assert len(set(hashed(keys).tolist())) == len(keys) == 7**5
    again = keys[np.random.default_rng().permutation(len(keys))]
    assert set(hashed(again).tolist()) == set(hashed(keys).tolist())


@pytest.mark.parametrize("statistic", ["first", "sum", "parity", "largest"])
def test_no_plain_property_of_an_instance_tells_its_side(statistic: str) -> None:
    keys = np.random.default_rng().integers(4, size=(40_000, 10))
    seen = {
        "first": keys[:, 0],
        "sum": keys.sum(1) // 5,
        "parity": keys.sum(1) % 2,
        "largest": keys.max(1),
    }[statistic]
    for value in np.unique(seen):
        chosen = is_held_out(keys[seen == value])
        if len(chosen) > 500:
            # Seven of them, 3e-12: the keys are fresh, and there are a dozen such groups.
            deviation = (0.25 * 0.75 / len(chosen)) ** 0.5
            assert abs(chosen.mean() - 1 / HELD_OUT_IN) < 7 * deviation
