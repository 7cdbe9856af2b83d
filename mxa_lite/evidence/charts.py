"""The figures of report and comparison, as SVG text. Matplotlib, without pyplot or a display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Values = Sequence[float | None]
ROLE_COLOUR = {"designer": "#2563a8", "executor": "#c2570c"}
NAMED = {**ROLE_COLOUR, "ok": "#3f8f5f", "correct": "#3f8f5f"}
COLOURS = ("#6b5ca5", "#b3820f", "#2b8a9e", "#a3527c", "#7d8899", "#b4433a", "#8c6d46", "#4b6fae")
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


def panel(steps: Sequence[int], roles: Sequence[str]) -> Figure:
    """An empty figure over training steps, the stages of the two roles shaded."""
    figure = Figure((4.2, 2.6), layout="constrained")
    axes = figure.add_subplot()
    start = 0
    for i in range(1, len(steps) + 1):
        if i == len(steps) or roles[i] != roles[start]:
            colour = ROLE_COLOUR.get(roles[start])
            if colour:
                axes.axvspan(steps[start] - 0.5, steps[i - 1] + 0.5, color=colour, alpha=0.08, lw=0)
            start = i
    if steps:
        axes.set_xlim(steps[0] - 0.5, steps[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def smooth(values: Values) -> list[float]:
    """The mean of the last WINDOW known values, at each step; NaN before the first."""
    found: list[float] = []
    means = []
    for value in values:
        found += [] if value is None else [value]
        last = found[-WINDOW:]
        means.append(sum(last) / len(last) if last else float("nan"))
    return means


def lines(
    name: str,
    steps: Sequence[int],
    roles: Sequence[str],
    series: Mapping[str, Values],
    top: float | None = None,
) -> str:
    """Raw values thin, their running mean bold; a step without a value leaves a gap."""
    figure = panel(steps, roles)
    axes = figure.axes[0]
    dot = "." if len(steps) < 50 else ""  # more of them hide the lines
    for i, (label, values) in enumerate(series.items()):
        colour = NAMED.get(label, COLOURS[i % len(COLOURS)])
        raw = [float("nan") if v is None else v for v in values]
        axes.plot(steps, raw, color=colour, lw=0.8, alpha=0.45, marker=dot, ms=3)
        axes.plot(steps, smooth(values), color=colour, lw=1.8, label=label)
    axes.set_ylim(0, top or max(1.05 * axes.get_ylim()[1], 0.1))
    return svg(figure, name)


def measured(
    name: str,
    steps: Sequence[int],
    roles: Sequence[str],
    results: Mapping[int, Mapping[str, Mapping[str, float]]],
) -> str:
    """Accuracy of every system at the steps where it was measured, with a band: its interval."""
    figure = panel(steps, roles)
    axes = figure.axes[0]
    for i, mode in enumerate(dict.fromkeys(mode for modes in results.values() for mode in modes)):
        at = sorted(step for step, modes in results.items() if mode in modes)
        low, middle, high = ([results[s][mode][k] for s in at] for k in ("low", "accuracy", "high"))
        axes.fill_between(at, low, high, color=COLOURS[i % len(COLOURS)], alpha=0.15, lw=0)
        label = mode.replace("_", " ")
        axes.plot(at, middle, color=COLOURS[i % len(COLOURS)], marker=".", label=label)
    axes.set_xlim(-0.5, steps[-1] + 0.5)
    axes.set_ylim(0, 1.02)
    return svg(figure, name)


def stack(
    name: str, steps: Sequence[int], series: Mapping[str, Sequence[float]], share: bool = False
) -> str:
    """Bars on bars, one a step; share: each step's bars add up to 1. Empty series are left out."""
    figure = panel(steps, [""] * len(steps))
    axes = figure.axes[0]
    totals = [sum(values[i] for values in series.values()) for i in range(len(steps))]
    edges, base = [s - 0.5 for s in steps] + [steps[-1] + 0.5], [0.0] * len(steps)
    for i, (label, values) in enumerate((k, v) for k, v in series.items() if any(v)):
        scaled = [v / t if share and t else v for v, t in zip(values, totals, strict=True)]
        colour = NAMED.get(label, COLOURS[i % len(COLOURS)])
        above = [b + v for b, v in zip(base, scaled, strict=True)]
        axes.stairs(above, edges, baseline=base, fill=True, color=colour, label=label, lw=0)
        base = above
    axes.set_ylim(0, 1 if share else None)
    return svg(figure, name)


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
