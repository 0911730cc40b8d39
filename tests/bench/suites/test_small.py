"""The CPU suite: in turns, each library at both precisions."""

from dataclasses import replace

import pytest

from open_mythos.bench.sizes import size_cpu
from open_mythos.bench.suite import Setting
from open_mythos.bench.suites import small as module
from open_mythos.bench.suites.small import contenders, cpu


def test_each_library_competes_at_both_precisions(setting: Setting) -> None:
    names = set(contenders(setting, setting.size, setting.attns[0]))
    wanted = {"open_mythos fp32", "open_mythos bf16"}
    if setting.peer is not None:
        wanted |= {"open-mythos 0.5.0 fp32", "open-mythos 0.5.0 bf16"}
    assert names == wanted


def test_rows_are_as_many_as_what_runs(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROUNDS", 3)
    rows = [row for case in cpu(setting) for row in case.run()]
    assert {row.case for row in rows} == {"train dim 32", "decode dim 32"}
    assert {"open_mythos fp32"} <= {row.who for row in rows}
    assert all(len(row.figures["step"].samples) == 3 for row in rows)


def test_real_sizes_train_as_written_and_compiled_and_say_which(setting: Setting) -> None:
    cases = cpu(replace(setting, size=size_cpu()))
    wanted = {
        f"{what} dim {dim}" for what in ("train", "train compiled", "decode") for dim in (256, 512)
    }
    assert {case.name for case in cases} == wanted
    for case in cases:
        assert (case.seconds > 100) == (not case.name.startswith("train dim"))
