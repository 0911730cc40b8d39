import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from open_mythos.config.mythos import MythosConfig
from open_mythos.config.overrides import configure, from_plain, to_plain
from open_mythos.data.tasks.registry import TASKS
from open_mythos.errors import ConfigError
from open_mythos.train.recipe import (
    CurriculumConfig,
    DataConfig,
    DepthConfig,
    EngineConfig,
    ObjectiveConfig,
    OptimConfig,
    Recipe,
)
from open_mythos.train.sources import build_sources


def test_a_recipe_survives_yaml_values_unchanged(tiny: Recipe) -> None:
    back = from_plain(Recipe, to_plain(tiny))
    assert back == tiny
    assert back.model.to_dict() == tiny.model.to_dict()


def test_overrides_reach_every_level(tiny: Recipe) -> None:
    found = configure(
        tiny, None, ["steps=7", "optim.lr=2e-4", "model.dim=32", "depth.kind=uniform"]
    )
    assert (found.steps, found.optim.lr, found.model.dim) == (7, 2e-4, 32)
    assert found.depth.kind == "uniform"
    with pytest.raises(ConfigError, match=r"optim\.lr_rate.*did you mean"):
        configure(tiny, None, ["optim.lr_rate=1"])


def test_evaluation_and_trackers_are_chosen_from_outside(tiny: Recipe) -> None:
    words = [
        "log_to=tensorboard,wandb",
        "eval_loops=1,8",
        "eval_prompts=To be, or",
        "eval_samples=1",
    ]
    found = configure(tiny, None, words)
    assert found.log_to == ("tensorboard", "wandb")
    assert (found.eval_loops, found.eval_prompts) == ((1, 8), ("To be, or",))
    assert from_plain(Recipe, to_plain(found)) == found
    with pytest.raises(ConfigError, match="log_to"):
        configure(tiny, None, ["log_to=tensorbord"])
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        replace(tiny, log_to=("tensorbord",))  # type: ignore[arg-type]
    for bad in ({"eval_loops": (0,)}, {"eval_tokens": 0}, {"eval_samples": -1}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            replace(tiny, **bad)  # type: ignore[arg-type]


def test_a_mixture_is_chosen_from_outside(tiny: Recipe) -> None:
    words = ["data.mixture={runs/a.b: 0.7, c: 2}", "data.document_mask=yes"]
    found = configure(tiny, None, words)
    assert found.data.mixture == {"runs/a.b": 0.7, "c": 2.0}
    assert found.data.document_mask
    assert from_plain(Recipe, to_plain(found)) == found
    with pytest.raises(ConfigError, match=r"data\.mixture"):
        configure(tiny, None, ["data.mixture={a: much}"])


def test_the_engine_is_chosen_from_outside(tiny: Recipe) -> None:
    assert tiny.engine == EngineConfig(precision="fp32", compile=False, checkpoint=False)
    words = ["engine.precision=bf16", "engine.checkpoint=yes", "depth.backprop_loops=2"]
    found = configure(tiny, None, words)
    assert found.engine == EngineConfig(precision="bf16", checkpoint=True)
    assert found.depth.backprop_loops == 2
    assert from_plain(Recipe, to_plain(found)) == found
    assert configure(found, None, ["depth.backprop_loops=null"]).depth == tiny.depth
    with pytest.raises(ConfigError, match=r"engine\.precision.*'fp8'"):
        configure(tiny, None, ["engine.precision=fp8"])
    with pytest.raises(ConfigError, match=r"optim\.kind.*'lion'"):
        configure(tiny, None, ["optim.kind=lion"])
    with pytest.raises(ConfigError, match=r"engine\.compiled.*did you mean 'engine\.compile'"):
        configure(tiny, None, ["engine.compiled=true"])


def test_tasks_are_set_up_from_outside_setting_by_setting(tiny: Recipe) -> None:
    words = ["data.kind=addition", "data.task.digits=2", "data.task.dial=operands"]
    found = configure(tiny, None, [*words, "model.max_seq_len=200"])
    assert found.data.task == {"digits": 2, "dial": "operands"}
    again = configure(found, None, ["data.task.digits=3"])
    assert again.data.task == {"digits": 3, "dial": "operands"}
    assert from_plain(Recipe, to_plain(again)) == again
    told = configure(tiny, None, ["data.kind=p-hop", "data.task.told=true", "model.max_seq_len=99"])
    assert told.data.task["told"] is True
    with pytest.raises(ConfigError, match=r"data\.kind: .*'maze'.*not 'mase'"):
        configure(tiny, None, ["data.kind=mase"])


BAD: list[tuple[type, dict[str, Any], str]] = [
    (DataConfig, {"batch_size": 0}, r"data\.batch_size is 0"),
    (DataConfig, {"states": 1}, r"data\.states is 1; it must be at least 2"),
    (
        DataConfig,
        {"task": {"side": 4}},
        r"data\.task is \{'side': 4\}, but data\.kind 'text' is no",
    ),
    (DataConfig, {"kind": "maze", "task": {"size": 4}}, r"data\.task: maze has no .* mean 'side'"),
    (DataConfig, {"kind": "parity", "task": {"length": 4}}, r"data\.task\.length is data\.length"),
    (DataConfig, {"kind": "sums", "task": {"modulus": 1}}, r"data\.task: modulus is 1"),
    (DataConfig, {"kind": "pointer", "layout": "joined"}, r"data\.task: layout .* mean 'joint'"),
    (DataConfig, {"validation_share": 1.0}, r"data\.validation_share is 1\.0"),
    (DataConfig, {"mixture": {"a": -1.0}}, r"data\.mixture of 'a' is -1\.0"),
    (DataConfig, {"mixture": {"a": 0.0}}, r"data\.mixture has no weight above 0"),
    (DataConfig, {"document_mask": 1}, r"data\.document_mask is True or False, not 1"),
    (DataConfig, {"overlong": "drop"}, r"data\.overlong is 'drop'; .*'cut' or 'refuse'"),
    (DepthConfig, {"min": 0}, r"depth\.min is 0"),
    (DepthConfig, {"min": 5, "max": 4}, r"depth\.max is 4; it must be at least 5"),
    (DepthConfig, {"mean": 2.5}, r"depth\.mean is 2\.5.*whole number"),
    (DepthConfig, {"kind": "poisson", "mean": 16}, r"depth\.mean is 16.*between.*\(1\).*\(16\)"),
    (DepthConfig, {"kind": "lognormal_poisson", "sigma": 0}, r"depth\.sigma is 0"),
    (DepthConfig, {"per": "row"}, r"depth\.per is 'row'"),
    (DepthConfig, {"curriculum_steps": -1}, r"depth\.curriculum_steps is -1"),
    (DepthConfig, {"start_mean": 2}, r"start_mean is 2, but depth\.curriculum_steps is 0"),
    (
        DepthConfig,
        {"start_mean": 4.5, "curriculum_steps": 9},
        r"start_mean is 4\.5; it must lie in 1\.0 \.\. 4\.0",
    ),
    (
        DepthConfig,
        {"kind": "uniform", "min": 2, "start_mean": 1.5, "curriculum_steps": 9},
        r"start_mean is 1\.5; it must lie in 2\.0 \.\. 9\.0",
    ),
    (OptimConfig, {"lr": math.nan}, r"optim\.lr is nan"),
    (OptimConfig, {"betas": (0.9, 1.0)}, r"optim\.betas has 1\.0"),
    (OptimConfig, {"final_ratio": 1.5}, r"optim\.final_ratio is 1\.5"),
    (OptimConfig, {"weight_decay": -0.1}, r"optim\.weight_decay is -0\.1"),
    (OptimConfig, {"max_skipped": 0}, r"optim\.max_skipped is 0"),
    (OptimConfig, {"kind": "mun"}, r"optim\.kind is 'mun'.*did you mean 'muon'"),
    (OptimConfig, {"muon_lr": 0.0}, r"optim\.muon_lr is 0"),
    (OptimConfig, {"muon_momentum": 1.0}, r"optim\.muon_momentum has 1\.0"),
    (OptimConfig, {"skip_spikes": 0.5}, r"optim\.skip_spikes is 0\.5.*at least 1"),
    (ObjectiveConfig, {"ponder": -1}, r"objective\.ponder is -1"),
    (ObjectiveConfig, {"loop_loss": math.nan}, r"objective\.loop_loss is nan"),
    (ObjectiveConfig, {"depth_prior": -1}, r"objective\.depth_prior is -1"),
    (ObjectiveConfig, {"loop_reads": 0}, r"objective\.loop_reads is 0"),
    (ObjectiveConfig, {"prior": "geometrc"}, r"prior is 'geometrc'.*did you mean 'geometric'"),
    (ObjectiveConfig, {"prior_mean": 1.0}, r"objective\.prior_mean is 1\.0.*more than 1"),
    (CurriculumConfig, {"momentum": 1.0}, r"curriculum\.momentum is 1\.0"),
    (CurriculumConfig, {"first_level": -1}, r"curriculum\.first_level is -1"),
    (DepthConfig, {"backprop_loops": 0}, r"depth\.backprop_loops is 0"),
    (EngineConfig, {"precision": "bf1"}, r"engine\.precision is 'bf1'.*did you mean 'bf16'"),
    (EngineConfig, {"precision": 16}, r"engine\.precision is 16"),
    (EngineConfig, {"compile": 1}, r"engine\.compile is True or False, not 1"),
    (EngineConfig, {"checkpoint": "yes"}, r"engine\.checkpoint is True or False, not 'yes'"),
]


@pytest.mark.parametrize(("kind", "values", "words"), BAD, ids=lambda x: str(x)[:40])
def test_each_part_names_what_is_wrong(kind: type, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        kind(**values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"save_every": -1}, "save_every is -1"),
        ({"log_every": 0}, "log_every is 0"),
    ],
)
def test_the_whole_names_what_is_wrong(tiny: Recipe, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(tiny, **values)


def test_parts_that_contradict_each_other_are_refused(tiny: Recipe) -> None:
    last = replace(tiny.model, readout="last")
    with pytest.raises(ConfigError, match=r"objective\.ponder.*readout is 'last'"):
        replace(tiny, model=last, objective=ObjectiveConfig(ponder=0.1))
    with pytest.raises(ConfigError, match=r"seq_len \(65\).*max_seq_len \(64\)"):
        replace(tiny, data=DataConfig(kind="text", seq_len=65))


def test_terms_that_nothing_can_form_are_refused(tiny: Recipe) -> None:
    prior = ObjectiveConfig(depth_prior=0.01)
    assert replace(tiny, objective=prior).objective is prior
    for readout in ("last", "act_sum"):
        model = MythosConfig.from_dict({**tiny.model.to_dict(), "readout": readout})
        with pytest.raises(ConfigError, match=rf"depth_prior is 0\.01 but .* is '{readout}'"):
            replace(tiny, objective=prior, model=model)
    early = ObjectiveConfig(loop_loss=0.5)
    depth = replace(tiny.depth, backprop_loops=2)
    assert replace(tiny, objective=early, depth=depth).objective is early
    with pytest.raises(ConfigError, match=r"loop_loss is 0\.5 but depth\.backprop_loops is 1"):
        replace(tiny, objective=early, depth=replace(depth, backprop_loops=1))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            DataConfig,
            "batch_size seq_len states queries max_hops loops_per_hop length",
        ),
        (DepthConfig, "min max backprop_loops curriculum_steps"),
        (ObjectiveConfig, "loop_reads"),
        (OptimConfig, "warmup_steps max_skipped"),
        (CurriculumConfig, "first_level min_steps"),
        (Recipe, "steps seed eval_every save_every keep_last log_every"),
    ],
)
@pytest.mark.parametrize("value", [3.0, 3.5, True, "3"])
def test_a_count_is_a_whole_number(tiny: Recipe, kind: type, names: str, value: object) -> None:
    build = partial(replace, tiny) if kind is Recipe else kind
    for name in names.split():
        with pytest.raises(ConfigError, match=rf"{name} is {value!r}; it must be a whole number"):
            build(**{name: value})


DATA = st.builds(
    DataConfig,
    kind=st.sampled_from(list(TASKS)),
    batch_size=st.just(2),
    states=st.integers(2, 9),
    queries=st.integers(1, 9),
    max_hops=st.integers(1, 3),
    layout=st.sampled_from(["pairs", "joint"]),
    length=st.integers(2, 30),
)


@settings(max_examples=40, deadline=None)
@given(data=DATA)
def test_a_model_must_have_room_for_a_row_and_no_more(data: DataConfig) -> None:
    base = Recipe(name="room", model=MythosConfig(max_seq_len=2048), data=data)
    # Batches of a mixture take turns between its tasks, whose rows differ in length.
    turns = 6 if data.kind == "mixed" else 1
    length = max(build_sources(base).train.batch(step).ids.shape[1] for step in range(turns))
    assert replace(base, model=replace(base.model, max_seq_len=length)).data == data
    with pytest.raises(ConfigError, match=rf"data\..* \({length}\) exceeds.*\({length - 1}\)"):
        replace(base, model=replace(base.model, max_seq_len=length - 1))
