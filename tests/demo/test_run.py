import io
import json
import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

from open_mythos.cli.opening import open_checkpoint
from open_mythos.demo.plan import SEED_DESIGN, TASK, TEXT, Plan
from open_mythos.demo.run import DemoResult, run_demo
from open_mythos.eval.halting import LoopUse
from open_mythos.eval.loop_curve import LoopCurve


def test_everything_promised_is_there(demo: tuple[Path, DemoResult]) -> None:
    out, result = demo
    assert result.status == "finished"
    for name in (TEXT, TASK, SEED_DESIGN):
        assert (out / name / "metrics.jsonl").read_text().count('"kind": "step"') == 2
        assert open_checkpoint(out / name).recipe is not None
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 9
    for heading in ("difficulty is depth", "seed loop", "Real text", "Inside the loop"):
        assert heading in page
    assert len(list((out / "figures").glob("*.png"))) >= 9


def test_the_results_are_the_records(demo: tuple[Path, DemoResult]) -> None:
    out, result = demo
    found = json.loads((out / "results.json").read_text())
    curve = LoopCurve.from_json(found["text"]["curve"])
    assert result.findings["text_perplexity"][1] == round(curve.at(1).perplexity, 3)
    assert LoopUse.from_json(found["text"]["use"]).n > 0
    assert set(found["tasks"]) == {TASK, SEED_DESIGN}


def test_a_finished_demo_run_again_trains_no_step_and_finds_the_same(
    demo: tuple[Path, DemoResult], tiny_plan: Plan
) -> None:
    out, first = demo
    before = (out / TEXT / "metrics.jsonl").read_bytes()
    again = run_demo(out, tiny_plan, console=Console(quiet=True))
    assert (out / TEXT / "metrics.jsonl").read_bytes() == before
    assert again.findings == first.findings


def test_without_matplotlib_there_are_the_numbers_and_a_word_about_the_pictures(
    demo: tuple[Path, DemoResult],
    tiny_plan: Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done, first = demo
    out = Path(shutil.copytree(done, tmp_path / "demo"))
    shutil.rmtree(out / "figures")
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.axes"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("open_mythos.report.figures", "open_mythos.demo.pictures"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    said = io.StringIO()
    again = run_demo(out, tiny_plan, console=Console(file=said, width=200))
    assert again.status == "finished"
    assert again.findings == first.findings
    assert 'pip install "open-mythos[plots]"' in said.getvalue()
    page = (out / "report.html").read_text()
    assert "image/png" not in page
    assert "open-mythos[plots]" in page
    assert "difficulty is depth" in page
    assert not (out / "figures").exists()
