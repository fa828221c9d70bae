"""Picture of a comparison: the effect of each method with its interval, and the learning curves."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from .curves import COLOURS, PANELS, add_legend, plot_panel, read_curves
from .figure import new_figure, open_frame, save_figure

__all__ = ["plot_comparison"]


def plot_comparison(
    path: str | Path,
    differences: Mapping[str, Sequence[float]],
    intervals: Mapping[str, tuple[float, float]],
    runs: Mapping[str, Sequence[str | Path]],
) -> Path:
    """Draw a comparison.

    Args:
        path: The picture; its suffix chooses the format.
        differences: For each method and pair, its error minus the baseline's, in percentage points.
        intervals: Interval of the mean difference by method, if available.
        runs: Run folders by method, including the baseline.
    """
    groups = {method: read_curves(folders) for method, folders in runs.items() if folders}
    colour_of = dict(zip(runs, cycle(COLOURS)))
    figure = new_figure(15, max(4.4, 1.5 + 0.45 * len(runs)))
    axes = figure.subplots(1, 3)
    _draw_differences(axes[0], differences, intervals, colour_of)
    for axis, panel in zip(axes[1:], PANELS):
        plot_panel(axis, panel, {method: groups.get(method, []) for method in runs})
    add_legend(figure, list(runs))
    return save_figure(figure, path)


def _draw_differences(
    axis: Any,
    differences: Mapping[str, Sequence[float]],
    intervals: Mapping[str, tuple[float, float]],
    colour_of: Mapping[str, str],
) -> None:
    """Draw a dot for each pair, a bar for the mean and a line for its interval."""
    for place, (method, values) in enumerate(differences.items()):
        colour = colour_of[method]
        axis.plot(values, [place] * len(values), "o", color=colour, alpha=0.4, markersize=6)
        if values:
            axis.plot(sum(values) / len(values), place, "|", color=colour, markersize=18, markeredgewidth=3)
        if method in intervals:
            axis.plot(intervals[method], [place, place], color=colour, linewidth=2)
    axis.axvline(0, color="#333333", linewidth=1)
    axis.set_yticks(range(len(differences)), list(differences))
    axis.set_ylim(len(differences) - 0.4, -0.6)
    axis.set_title("error minus baseline, points", fontsize=12)
    axis.set_xlabel("dots: pairs; bar: mean; line: 95 % interval")
    open_frame(axis, grid="x")
