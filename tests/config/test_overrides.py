"""Settings from YAML and from the command line: typed, complete, and refused by full path."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings, strategies as st

from open_mythos.config.mythos import MythosConfig
from open_mythos.config.overrides import configure, from_plain, read_yaml, split_override, to_yaml
from open_mythos.errors import ConfigError


@dataclass(frozen=True)
class Optim:
    lr: float = 1e-3
    steps: int = 100
    betas: tuple[float, float] = (0.9, 0.95)
    kind: Literal["adamw", "sgd"] = "adamw"


@dataclass
class Run:
    model: MythosConfig = field(default_factory=MythosConfig)
    optim: Optim = field(default_factory=Optim)
    name: str = "plain"
    out: Path | None = None
    second: Optim | None = None
    stages: list[Optim] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    shuffle: bool = True


def changed(*overrides: str) -> Run:
    return configure(Run(), overrides=overrides)


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        changed(*overrides)
    return str(caught.value)


def test_an_override_changes_its_field_and_nothing_else() -> None:
    base = Run()
    run = configure(base, overrides=["model.n_experts=8", "optim.steps=7", "shuffle=no"])
    assert (run.model.n_experts, run.optim.steps, run.shuffle) == (8, 7, False)
    assert replace(run.model, n_experts=64) == base.model
    assert replace(run.optim, steps=100) == base.optim
    assert base == Run()


@settings(deadline=None, max_examples=50)
@given(
    value=st.floats(1e-300, 1e300),
    form=st.sampled_from(["{}", "{:e}", "{:.0e}", "{:E}", "{:.3g}", "+{}"]),
)
def test_any_way_to_write_a_number_reaches_a_float_field(value: float, form: str) -> None:
    text = form.format(value)
    assert changed(f"optim.lr={text}").optim.lr == float(text)


def test_numbers_with_an_exponent_and_no_dot_are_numbers_in_files_too(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("optim: {lr: 1e-3}\nweights: {a: 2E5}\n")
    run = configure(Run(), file)
    assert run.optim.lr == 0.001
    assert run.weights == {"a": 200000.0}


def test_text_fields_keep_their_characters() -> None:
    for text in ("007", "1e-3", "true", "3"):
        assert changed(f"name={text}").name == text
    assert changed("out=runs/a").out == Path("runs/a")
    assert changed("out=null").out is None


def test_lists_tuples_and_optional_parts_are_built_typed() -> None:
    run = changed("optim.betas=[0.8, 0.9]", "second.lr=3", "stages=[{steps: 1}, {}]", "weights.x=1")
    assert run.optim.betas == (0.8, 0.9)
    assert run.second == Optim(lr=3.0)
    assert run.stages == [Optim(steps=1), Optim()]
    assert run.weights == {"x": 1.0}


def test_file_then_overrides_and_the_last_word_wins(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("optim:\n  steps: 5\n  lr: 0.5\nname: filed\n")
    run = configure(Run(), file, ["optim.steps=6", "optim.steps=7"])
    assert (run.optim, run.name) == (Optim(steps=7, lr=0.5), "filed")


def test_changes_that_only_fit_together_are_checked_together() -> None:
    run = changed("model.dim=96", "model.n_heads=3")
    assert (run.model.dim, run.model.n_heads) == (96, 3)
    assert "n_heads (16) must divide dim (97)" in refusal("model.dim=97")


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("optim.stepz=3", "unknown setting 'optim.stepz'; did you mean 'optim.steps'?"),
        ("optm.steps=3", "unknown setting 'optm'; did you mean 'optim'?"),
        ("dim=64", "unknown setting 'dim'; did you mean 'model.dim'?"),
        ("model.n_head=4", "did you mean 'model.n_heads'?"),
        ("second.lx=1", "did you mean 'second.lr'?"),
        ("stages=[{lx: 1}]", "unknown setting 'stages.0.lx'"),
        ("zzz=1", "known: model, name"),
    ],
)
def test_unknown_settings_are_refused_by_full_path(override: str, shown: str) -> None:
    message = refusal(override)
    if "known:" in shown:
        assert "known: " in message
        assert "optim" in message
    else:
        assert shown in message


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("optim.lr=fast", "optim.lr", "'fast'"),
        ("optim.steps=1.5", "optim.steps", "1.5"),
        ("optim.steps=true", "optim.steps", "True"),
        ("optim.kind=adam", "optim.kind", "'adam'"),
        ("optim.betas=[1]", "optim.betas", "[1]"),
        ("optim=3", "optim", "3"),
        ("optim.lr.x=3", "optim.lr", "3"),
        ("model.dim=true", "model.dim", "True"),
        ("model.attn_type=gqx", "model.attn_type", "'gqx'"),
        ("shuffle=maybe", "shuffle", "'maybe'"),
    ],
)
def test_wrong_values_are_refused_by_path_and_value(override: str, path: str, value: str) -> None:
    message = refusal(override)
    assert message.startswith(path)
    assert value in message
    assert "http" not in message
    assert "\n" not in message


def test_every_wrong_value_is_reported_at_once() -> None:
    message = refusal("optim.lr=x", "optim.steps=y")
    assert "optim.lr" in message
    assert "optim.steps" in message


@pytest.mark.parametrize("text", ["steps", "=3", "a..b=3", ".a=3", "a.=3", ""])
def test_an_override_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="name=value"):
        split_override(text)


def test_a_value_may_hold_an_equals_sign() -> None:
    assert split_override("name=a=b") == (["name"], "a=b")


@settings(deadline=None, max_examples=40)
@given(
    lr=st.floats(allow_nan=False, allow_infinity=False),
    name=st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=8),
    stages=st.lists(st.builds(Optim, steps=st.integers()), max_size=2),
    loops=st.integers(1, 99),
    out=st.none() | st.just(Path("a/b")),
)
def test_yaml_out_and_in_again_is_identity(
    lr: float, name: str, stages: list[Optim], loops: int, out: Path | None
) -> None:
    run = Run(MythosConfig(max_loop_iters=loops), Optim(lr=lr), name, out, None, stages)
    text = to_yaml(run)
    assert from_plain(Run, yaml.safe_load(text)) == run
    assert list(yaml.safe_load(text)) == list(asdict(run))


def test_a_mythos_config_alone_is_a_tree_too() -> None:
    cfg = configure(MythosConfig(), overrides=["rope_theta=1e6", "dense_hidden=128"])
    assert cfg == MythosConfig(rope_theta=1e6, dense_hidden=128)
    assert yaml.safe_load(to_yaml(cfg)) == cfg.to_dict()


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"a: [1", "is not YAML"),
        (b"- 1\n- 2\n", "not list"),
        (b"1: 2\n", "name: value"),
        (b"\xff\xfe\xfa", "cannot read"),
    ],
)
def test_a_file_that_holds_no_settings_is_refused_by_name(
    tmp_path: Path, content: bytes, shown: str
) -> None:
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.yaml") as caught:
        read_yaml(file)
    assert shown in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_and_an_empty_one_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        configure(Run(), tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").touch()
    assert configure(Run(), tmp_path / "empty.yaml") == Run()


def test_yaml_cannot_make_python_objects(tmp_path: Path) -> None:
    file = tmp_path / "evil.yaml"
    file.write_text("name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="is not YAML"):
        configure(Run(), file)


def test_overrides_may_be_any_sequence() -> None:
    texts: Sequence[str] = ("optim.steps=2",)
    assert configure(Run(), overrides=texts) == configure(Run(), overrides=list(texts))


@dataclass(frozen=True)
class Lists:
    numbers: tuple[int, ...] = ()
    kinds: tuple[Literal["a", "b"], ...] = ()
    texts: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("word", "name", "wanted"),
    [
        ("numbers=[1, 4]", "numbers", (1, 4)),
        ("numbers=1,4,8", "numbers", (1, 4, 8)),
        ("numbers=4", "numbers", (4,)),
        ("numbers=[]", "numbers", ()),
        ("kinds=b", "kinds", ("b",)),
        ("kinds=b,a", "kinds", ("b", "a")),
        ("texts=To be, or not to be", "texts", ("To be, or not to be",)),
        ("texts=007", "texts", ("007",)),
        ('texts=["a", "b"]', "texts", ("a", "b")),
    ],
)
def test_a_tuple_needs_no_brackets(word: str, name: str, wanted: tuple[object, ...]) -> None:
    assert getattr(configure(Lists(), overrides=[word]), name) == wanted


def test_a_wrong_item_of_a_tuple_is_named() -> None:
    with pytest.raises(ConfigError, match="kinds"):
        configure(Lists(), overrides=["kinds=c"])
    with pytest.raises(ConfigError, match="numbers"):
        configure(Lists(), overrides=["numbers=1,x"])
