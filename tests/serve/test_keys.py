"""Keys: the right ones open, others do not, and none is ever shown."""

from pathlib import Path

import pytest

from open_mythos.errors import ConfigError
from open_mythos.serve.keys import VARIABLE, Keys, read_keys


ANN, BOB = "a" * 20, "b" * 20


def test_a_key_has_a_name_and_anything_else_has_none() -> None:
    keys = Keys({"ann": ANN, "bob": BOB})
    assert keys.name(f"Bearer {ANN}") == "ann"
    assert keys.name(f"bearer  {BOB}") == "bob"
    wrong = [None, "", ANN, f"Basic {ANN}", "Bearer ", f"Bearer {ANN}x", f"Bearer {ANN[:-1]}",
             "Bearer \udcff", f"Bearer {ANN} {BOB}"]  # fmt: skip
    assert [keys.name(one) for one in wrong] == [None] * len(wrong)
    assert ANN not in repr(keys) + repr(vars(keys))
    assert not Keys({})


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# ours\nann {ANN}  # a friend\n\n{BOB}\n")
    keys = read_keys(path, {VARIABLE: f"{'c' * 16}, {'d' * 16}"})
    given = [ANN, BOB, "c" * 16, "d" * 16]
    assert [keys.name(f"Bearer {one}") for one in given] == ["ann", "key-4", "env-1", "env-2"]
    assert not read_keys(None, {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ann short", "at least 16"),
        (f"a {ANN}\na {BOB}", "twice"),
        (f"a b {ANN}", "3 words"),
        ("# none", "holds no API key"),
        ("ann " + "\u00e4" * 20, "ASCII"),
    ],
)
def test_a_wrong_file_is_refused_without_showing_a_key(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "keys"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=reason) as caught:
        read_keys(path, {})
    assert not any(key in str(caught.value) for key in (ANN, BOB, "short"))


def test_a_file_that_is_not_there_is_no_open_door(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_keys(tmp_path / "none", {})
