from pathlib import Path

from open_mythos.demo.run import DemoResult


def test_every_picture_that_is_drawn_is_shown_and_saved(
    demo: tuple[Path, DemoResult],
) -> None:
    out, _ = demo
    saved = {path.stem for path in (out / "figures").glob("*.png")}
    assert {"task-depth", "task-heat", "text-loops", "rho"} <= saved
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == len(saved)
    assert "stopped at the trained loops" in page
