from pathlib import Path
from typing import Any

import pytest

from open_mythos.errors import InputError
from open_mythos.report.run_figure import DRAWN, by_depth, judged, run_figure, styles, thin


def step(number: int, **values: Any) -> dict[str, Any]:
    return {"kind": "step", "step": number, "loss": 4.0 / number, **values}


def evaluation(number: int, **values: float | None) -> dict[str, Any]:
    named = {key.replace("__", "/"): value for key, value in values.items()}
    return {"kind": "eval", "step": number, "values": named}


METRICS = [
    *(step(n, accuracy=0.1 * n, lr=1e-3, given_loops=2.0, mean_loops=2.0) for n in range(1, 6)),
    evaluation(3, v__loss=2.0, v__loss_at_1=3.0, v__loss_at_4=2.0, v__bits_per_byte=1.5),
    evaluation(5, v__loss=1.0, v__loss_at_1=2.5, v__loss_at_4=1.0, v__bits_per_byte=1.0),
]


def panels(runs: dict[str, Any]) -> dict[str, Any]:
    return {axes.get_ylabel(): axes for axes in run_figure(runs).axes}


def test_the_panels_show_the_recorded_numbers() -> None:
    shown = panels({"one": METRICS})
    raw, smoothed, dots = shown["loss (dots: held out)"].lines
    assert list(raw.get_xdata()) == [1, 2, 3, 4, 5]
    assert list(raw.get_ydata()) == [4.0 / n for n in range(1, 6)]
    assert smoothed.get_ydata()[-1] > raw.get_ydata()[-1]
    assert list(zip(*dots.get_data(), strict=True)) == [(3, 2.0), (5, 1.0)]
    bits = shown["bits per byte, held out"].lines[0]
    assert list(zip(*bits.get_data(), strict=True)) == [(3, 1.5), (5, 1.0)]
    assert list(shown["learning rate"].lines[0].get_ydata()) == [1e-3] * 5


def test_one_run_shows_its_depths_over_time() -> None:
    axes = panels({"one": METRICS})["v: loss"]
    lines = [list(zip(*line.get_data(), strict=True)) for line in axes.lines]
    assert lines == [[(1, 3.0), (4, 2.0)], [(1, 2.5), (4, 1.0)]]
    assert len({tuple(line.get_color()) for line in axes.lines}) == 2
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "4"]


def test_several_runs_show_their_last_depths_and_a_legend() -> None:
    other = [*METRICS, evaluation(9, v__loss_at_1=0.5, v__loss_at_8=0.25)]
    bare = [step(n) for n in range(1, 3)]
    shown = panels({"one": METRICS, "two": other, "bare": bare})
    lines = {line.get_label(): line.get_data() for line in shown["v: loss"].lines}
    assert [list(part) for part in lines["two"]] == [[1, 8], [0.5, 0.25]]
    assert [list(part) for part in lines["one"]] == [[1, 4], [2.5, 1.0]]
    assert not len(lines["bare"][0])
    legend = shown["loss (dots: held out)"].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two", "bare"]


def test_a_number_that_no_run_has_takes_no_room() -> None:
    shown = panels({"one": METRICS})
    assert not {"MFU", "rho(A)", "level", "loops used", "gradient norm"} & shown.keys()
    halting = [step(n, given_loops=4.0, mean_loops=2.5, level=2) for n in range(1, 4)]
    assert {"level", "loops used", "loops given"} <= panels({"one": halting}).keys()


def test_a_run_without_a_step_is_refused() -> None:
    with pytest.raises(InputError, match="no step in empty"):
        run_figure({"empty": []})


def test_more_runs_than_colours_are_still_told_apart() -> None:
    first = [tuple(style.values()) for style, _ in zip(styles(), range(24), strict=False)]
    assert len(set(first)) == 24


def test_long_lines_are_thinned_and_keep_their_ends() -> None:
    for count in (0, 1, 5, DRAWN, DRAWN + 1, 7 * DRAWN + 3):
        steps, values = thin(range(count), [float(n) for n in range(count)])
        assert len(steps) <= DRAWN + 1
        assert steps[:1] == list(range(count))[:1]
        assert steps[-1:] == list(range(count))[-1:]
        assert values == [float(n) for n in steps]


def test_scores_that_are_not_finite_are_left_out() -> None:
    metrics = [*METRICS, evaluation(7, v__loss=None, v__loss_at_1=None), step(8)]
    assert judged(metrics, "loss") == ([3, 5], [2.0, 1.0])
    assert by_depth(metrics, "v", "loss").keys() == {3, 5}
    assert judged([evaluation(1, a__loss=1.0, b__loss=3.0)], "loss") == ([1], [2.0])


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_pictures_are_drawn_to_the_end(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"x.{suffix}"
    run_figure({"one": METRICS, "two": METRICS}).savefig(file)
    run_figure({"one": METRICS}).savefig(file)
    assert file.stat().st_size > 1000
