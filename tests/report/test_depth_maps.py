from collections.abc import Iterator

import pytest

from open_mythos.eval.loop_curve import DepthMap
from open_mythos.report.depth_maps import Panel, band_figure, map_grid, matrix_figure, short
from open_mythos.report.figures import COLOURS, Axes


FOUND = DepthMap("x", (1, 2, 4), (1, 2, 4, 8), tuple((0.1, 0.5, 0.9, 1.0) for _ in range(3)), 9)


def frames(axes: Axes) -> Iterator[tuple[str, float, float]]:
    """Colour and upper right corner of what is framed."""
    for line in axes.lines:
        yield line.get_color(), max(line.get_xdata()), max(line.get_ydata())


def test_maps_share_one_scale_and_frame_what_was_trained() -> None:
    panels = [
        Panel(title=name, found=FOUND, difficulty=2, loops=4, per_level=per_level)
        for name, per_level in (("a", 0), ("b", 1), ("c", 2))
    ]
    figure = map_grid(panels, "hops", 0.25)
    *maps, empty, bar = figure.axes
    assert [axes.get_title() for axes in maps] == ["a", "b", "c"]
    assert not empty.axison
    for axes in maps:
        image = axes.images[0]
        assert image.get_clim() == (0.0, 1.0)
        assert image.get_array().tolist() == [list(row) for row in FOUND.accuracy]
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("loops", "hops")
        trained = [frame for frame in frames(axes) if frame[0] == COLOURS[1]]
        assert trained == [(COLOURS[1], 2.5, 1.5)]  # 3 columns, 2 rows
        assert axes.get_xlim() == (-0.5, 3.5)
    granted = [[(x, y) for c, x, y in frames(axes) if c == "white"] for axes in maps]
    assert granted == [
        [],
        [(0.5, 0.5), (1.5, 1.5), (2.5, 2.5)],
        [(1.5, 0.5), (2.5, 1.5), (3.5, 2.5)],
    ]
    assert bar.get_ylabel() == "accuracy"
    assert [line.get_ydata()[0] for line in bar.lines] == [0.25]


def test_a_single_map_has_no_empty_neighbour() -> None:
    figure = map_grid([Panel(title="a", found=FOUND, difficulty=4, loops=8)], "bits", 0.5)
    assert len(figure.axes) == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, ".00"), (0.084, ".08"), (0.994, ".99"), (0.9985, ".99"), (0.9996, "1.0"), (1.0, "1.0")],
)
def test_two_digits_do_not_round_up_to_right_throughout(value: float, text: str) -> None:
    assert short(value) == text


def test_the_matrix_shows_means_and_where_seeds_differ() -> None:
    rows = {"a": {1: (0.9, 0.9, 0.9), 8: (0.5, 0.25, 0.75)}, "b": {1: (0.1,) * 3, 8: (0.2,) * 3}}
    axes = matrix_figure(rows, (1, 8), ("hops", "accuracy"), 1).axes[0]
    assert axes.images[0].get_array().tolist() == [[0.9, 0.5], [0.1, 0.2]]
    assert [t.get_text() for t in axes.texts] == ["0.900", "0.500\n.25 to .75", "0.100", "0.200"]
    assert [line.get_xdata()[0] for line in axes.lines] == [0.5]


@pytest.mark.parametrize("doubling", [True, False])
def test_lines_have_bands_and_levels_names(doubling: bool) -> None:
    lines = {"a": {1: (0.5, 0.4, 0.6), 8: (0.9, 0.9, 0.9)}, "b": {1: (0.4,) * 3, 8: (0.1,) * 3}}
    levels = {"chance": 0.25, "best public probe": 0.7}
    figure = band_figure(lines, 4, ("loops", "accuracy"), levels, doubling=doubling)
    axes = figure.axes[0]
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["a", "b", *levels]
    shown = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert shown["a"] == [0.5, 0.9]
    assert shown["b"] == [0.4, 0.1]
    assert len(axes.collections) == 2
    assert axes.collections[0].get_paths()[0].vertices[:, 1].max() == 0.9
    assert [text.get_text() for text in axes.texts] == ["trained up to 4"]
    assert {name: shown[name][0] for name in levels} == levels
    assert (axes.get_xscale() == "log") is doubling
