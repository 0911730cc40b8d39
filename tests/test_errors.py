"""Errors: caught as users expect, and hints that name a real option."""

import pytest
from hypothesis import given, settings, strategies as st

from open_mythos import errors


def test_every_error_is_a_mythos_error_and_a_builtin_kind() -> None:
    kinds = {
        errors.ConfigError: ValueError,
        errors.InputError: ValueError,
        errors.CacheError: ValueError,
        errors.ShapeError: RuntimeError,
        errors.CheckpointError: ValueError,
        errors.MissingExtraError: ImportError,
    }
    for kind, builtin in kinds.items():
        assert issubclass(kind, errors.MythosError)
        assert issubclass(kind, builtin)


def test_a_missing_extra_says_what_needed_it_and_how_to_install_it() -> None:
    with pytest.raises(ImportError, match="figures needs matplotlib") as caught:
        raise errors.MissingExtraError("matplotlib", "plots", "figures")
    assert 'pip install "open-mythos[plots]"' in str(caught.value)


NAMES = st.text("abcdefghij", min_size=6, max_size=12)


@settings(deadline=None)
@given(options=st.lists(NAMES, min_size=1, max_size=5, unique=True), at=st.integers(0, 11))
def test_one_wrong_letter_is_forgiven(options: list[str], at: int) -> None:
    meant = options[0]
    typo = meant[: at % len(meant)] + "Z" + meant[at % len(meant) + 1 :]
    hint = errors.did_you_mean(typo, options)
    assert hint.startswith("did you mean '")
    assert hint.split("'")[1] in options


def test_a_hopeless_name_gets_the_whole_list() -> None:
    assert errors.did_you_mean("zzz", ["beta", "alpha"]) == "known: alpha, beta"
