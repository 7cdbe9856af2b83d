"""The figure of a comparison, as SVG text. Matplotlib, without pyplot or a display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

Values = Sequence[float | None]
COLOURS = ("#7d6cc0", "#b98a16", "#2f9bb0", "#b85f95", "#8b95a5", "#c4534c", "#8c6d46", "#3f7fc4")
WINDOW = 5  # steps of the running mean that is drawn over the raw line


def svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element; `name` keeps its ids apart from other figures' ids.

    A single chart gets the names of its series in rows above it.
    """
    if len(figure.axes) == 1:
        figure.legend(loc="outside upper left", ncols=3, fontsize=8, frameon=False)
    buffer = io.StringIO()
    style = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}
    with matplotlib.rc_context(style):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    return text.replace("<svg", f'<svg role="img" aria-label="{name}"', 1)


def smooth(values: Values) -> list[float]:
    """The mean of the last WINDOW known values, at each step; NaN before the first."""
    found: list[float] = []
    means = []
    for value in values:
        found += [] if value is None else [value]
        last = found[-WINDOW:]
        means.append(sum(last) / len(last) if last else float("nan"))
    return means


def comparison(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Learning curves with bands over seeds, final accuracies with intervals, pattern shares."""
    figure = Figure((11, 4.2 + 1.8 * ((len(rows) + 3) // 4)), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(3.6, 1.8 * ((len(rows) + 3) // 4)))
    above, below = parts
    curves, ends = above.subplots(1, 2, width_ratios=(3, 2))
    curves.set_title("correct executions in training", fontsize=9)
    ends.set_title("held-out: cold (open) and trained, 95 % interval", fontsize=9)
    for i, row in enumerate(rows):
        colour, steps = COLOURS[i % len(COLOURS)], [point["step"] for point in row["curve"]]
        middle, least, most = (
            smooth([point[key] for point in row["curve"]]) for key in ("correct", "least", "most")
        )
        if steps:  # else it was measured without training
            curves.plot(steps, middle, color=colour, label=row["name"])
            curves.fill_between(steps, least, most, color=colour, alpha=0.15, lw=0)
        final, cold = row["final"], row["cold"]
        ends.plot([final["low"], final["high"]], [-i, -i], color=colour)
        ends.plot(final["mean"], -i, "o", color=colour)
        ends.plot(cold["mean"], -i, "o", color=colour, fillstyle="none")
    ends.set_yticks([-i for i in range(len(rows))], [row["name"] for row in rows])
    if curves.has_data():
        curves.legend(fontsize=8, frameon=False)
    names = sorted({name for row in rows for point in row["curve"] for name in point["patterns"]})
    grid = below.subplots(-(-len(rows) // 4), 4, squeeze=False).flat
    for axes, row in zip(grid, rows, strict=False):
        steps = [point["step"] for point in row["curve"]]
        series = [smooth([p["patterns"].get(name, 0.0) for p in row["curve"]]) for name in names]
        colours = [COLOURS[i % len(COLOURS)] for i in range(len(names))]
        if not steps:
            continue
        axes.stackplot(steps, series, colors=colours, labels=names)
        axes.set_title(f"patterns: {row['name']}", fontsize=8)
    below.legend(names, loc="outside lower center", ncols=8, fontsize=8, frameon=False)
    for axes in figure.axes:
        axes.tick_params(labelsize=8)
        axes.set_visible(axes.has_data())
    return figure
