"""Pictures of depth, models side by side: heat maps, a table in colours, lines with bands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from open_mythos.eval.loop_curve import DepthMap
from open_mythos.report.figures import COLOURS, MAP, Axes, Figure, empty_axes


# Numbers in cells are white below this value and black above, for contrast on the map's colours.
LIGHT_FROM = 0.62
COLUMNS = 2
LEVEL_STYLES = (":", "-.", (0, (5, 4)), (0, (1, 4)), (0, (9, 2)), "-")

# x -> mean, least and most.
Band = Mapping[int, tuple[float, float, float]]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One model's map.

    Attributes:
        title: The model.
        found: Accuracy by difficulty and loops.
        difficulty: The hardest in training.
        loops: The most loops in training.
        per_level: Loops that each unit of difficulty is granted, where they alone say it; else 0.
    """

    title: str
    found: DepthMap
    difficulty: int
    loops: int
    per_level: int = 0

    def trained_rows(self) -> int:
        """Rows no harder than the training."""
        return sum(d <= self.difficulty for d in self.found.difficulties)

    def trained_columns(self) -> int:
        """Columns of no more loops than the training."""
        return sum(n <= self.loops for n in self.found.loops)


def map_grid(panels: Sequence[Panel], unit: str, chance: float) -> Figure:
    """Heat maps on one colour scale: what was trained is framed, loops that a row asks for dotted.

    Args:
        panels: The models.
        unit: What the difficulty counts.
        chance: Marked on the colour scale.
    """
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    cells = max(len(panel.found.difficulties) for panel in panels)
    figure = Figure(figsize=(4.6 * columns, (1.1 + 0.27 * cells) * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    images = [_draw(axes, panel, unit) for axes, panel in zip(grid, panels, strict=False)]
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    bar = figure.colorbar(images[0], ax=grid, label="accuracy", shrink=0.9, aspect=30)
    bar.ax.axhline(chance, color="white", linewidth=1.6)
    bar.ax.annotate(
        "chance",
        (0.0, chance),
        xytext=(-3, 0),
        textcoords="offset points",
        xycoords=("axes fraction", "data"),
        ha="right",
        va="center",
        fontsize=8,
    )
    return figure


def _draw(axes: Axes, panel: Panel, unit: str) -> Any:
    found = panel.found
    image = axes.imshow(found.accuracy, aspect="auto", cmap=MAP, vmin=0.0, vmax=1.0, origin="lower")
    axes.set_xticks(range(len(found.loops)), [str(n) for n in found.loops], fontsize=8)
    axes.set_yticks(
        range(len(found.difficulties)), [str(d) for d in found.difficulties], fontsize=8
    )
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel("loops", fontsize=9)
    axes.set_ylabel(unit, fontsize=9)
    for y, (difficulty, row) in enumerate(zip(found.difficulties, found.accuracy, strict=True)):
        for x, (n_loops, value) in enumerate(zip(found.loops, row, strict=True)):
            colour = "black" if value > LIGHT_FROM else "white"
            axes.text(x, y, short(value), ha="center", va="center", fontsize=6.5, color=colour)
            if panel.per_level and n_loops == difficulty * panel.per_level:
                _frame(axes, (x - 0.5, x + 0.5), (y - 0.5, y + 0.5), "white", 1.2, ":")
    ends = panel.trained_columns() - 0.5, panel.trained_rows() - 0.5
    _frame(axes, (-0.5, ends[0]), (-0.5, ends[1]), COLOURS[1], 2.2, "-")
    return image


def _frame(
    axes: Axes,
    x: tuple[float, float],
    y: tuple[float, float],
    colour: str,
    width: float,
    style: str,
) -> None:
    """A rectangle, without moving the axes' limits."""
    around = [(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1]), (x[0], y[0])]
    xs, ys = zip(*around, strict=True)
    axes.plot(xs, ys, color=colour, lw=width, ls=style, clip_on=False, scalex=False, scaley=False)


def short(value: float) -> str:
    """Two digits of a share: .08, .97; 1.0 only where it is that to three."""
    return "1.0" if value >= 0.9995 else f"{min(value, 0.99):.2f}"[1:]


def matrix_figure(
    rows: Mapping[str, Band], columns: Sequence[int], labels: tuple[str, str], trained: int
) -> Figure:
    """Names x numbers in colours, with least and most below the mean where they differ.

    Args:
        rows: Name -> column -> mean, least, most.
        columns: In this order.
        labels: Of the columns, and of the colour.
        trained: The last column in training; a line follows it.
    """
    figure = Figure(
        figsize=(1.9 + 0.72 * len(columns), 1.0 + 0.5 * len(rows)), layout="constrained"
    )
    axes = figure.add_subplot()
    values = [[band[column][0] for column in columns] for band in rows.values()]
    image = axes.imshow(values, aspect="auto", cmap=MAP, vmin=0.0, vmax=1.0)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_xticks(range(len(columns)), [str(column) for column in columns])
    axes.set_xlabel(labels[0])
    for y, band in enumerate(rows.values()):
        for x, column in enumerate(columns):
            mean, least, most = band[column]
            text = f"{mean:.3f}"
            if most - least >= 0.001:
                text += f"\n{short(least)} to {short(most)}"
            colour = "black" if mean > LIGHT_FROM else "white"
            axes.text(x, y, text, ha="center", va="center", fontsize=6.5, color=colour)
    within = sum(column <= trained for column in columns)
    axes.axvline(within - 0.5, color=COLOURS[1], linewidth=2.2)
    figure.colorbar(image, ax=axes, label=labels[1])
    return figure


def band_figure(
    lines: Mapping[str, Band],
    trained: int,
    labels: tuple[str, str],
    levels: Mapping[str, float],
    *,
    doubling: bool = True,
) -> Figure:
    """Lines with bands from least to most, over x; what was trained ends at a dashed line.

    Args:
        lines: Name -> x -> mean, least, most.
        trained: Where the training ends.
        labels: Of x and y.
        levels: Name -> height of a line to compare with, such as chance.
        doubling: Whether equal steps along x double it.
    """
    figure, axes = empty_axes(7.4, 3.8)
    for colour, (name, band) in zip(COLOURS, lines.items(), strict=False):
        xs = list(band)
        means, least, most = zip(*band.values(), strict=True)
        axes.plot(xs, means, marker="o", markersize=4, color=colour, label=name)
        axes.fill_between(xs, least, most, color=colour, alpha=0.15, linewidth=0)
    ticks = sorted({x for band in lines.values() for x in band})
    if doubling:
        axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.axvline(trained, color="black", linewidth=0.8, linestyle="--")
    axes.annotate(
        f"trained up to {trained}",
        (trained, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        fontsize=8,
    )
    for style, (name, height) in zip(LEVEL_STYLES, levels.items(), strict=False):
        axes.axhline(height, color="grey", linewidth=1.0, linestyle=style, label=name)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    return figure
