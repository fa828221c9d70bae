"""Picture of training runs: loss, top-1 and the share of exchanged batches by epoch."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from .figure import new_figure, open_frame, save_figure

__all__ = ["COLOURS", "PANELS", "Curves", "add_legend", "plot_curves", "plot_panel", "group_by_seed", "read_curves"]

PANELS: tuple[tuple[str, tuple[str, ...], float], ...] = (  # title, columns, factor
    ("loss", ("train_loss", "eval_loss"), 1),
    ("top-1, %", ("eval_top1",), 1),
    ("exchanged batches, %", ("train_exchanged",), 100),
)
COLOURS = ("#00798c", "#d1495b", "#edae49", "#8d6a9f", "#5f6368", "#66a182", "#2e4057", "#c98686")


@dataclass(frozen=True)
class Curves:
    """Table of a run: its name for the legend, and its columns with a value for each epoch; nan if missing."""

    name: str
    columns: dict[str, list[float]]


def read_curves(runs: Sequence[str | Path]) -> list[Curves]:
    """Read the summary.csv of run folders from `timm-moex train` or timm's train.py.

    `runs` may also be the CSV files themselves. If an epoch has several rows, as after resuming train.py, the last one
    counts. Each run is named by the part of its path that differs from the others.

    Example:
        >>> from timm_moex.hub.manifest import weights_dir
        >>> (run,) = read_curves([weights_dir() / "resnet20_cifar.fmnist_sample"])
        >>> run.name, run.columns["epoch"]
        ('resnet20_cifar.fmnist_sample', [0.0, 1.0, 2.0, 3.0, 4.0])
    """
    files = [Path(run) / "summary.csv" if Path(run).is_dir() else Path(run) for run in runs]
    if not files:
        raise ValueError("runs is empty: expected at least one run folder")
    return [Curves(name, _read_columns(file)) for name, file in zip(_names(files), files)]


def _read_columns(file: Path) -> dict[str, list[float]]:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; a run writes summary.csv after its first epoch")
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            rows = {int(row["epoch"]): row for row in csv.DictReader(opened)}
        numbers = {epoch: {key: float(text or "nan") for key, text in row.items()} for epoch, row in rows.items()}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not a table with a row of numbers for each epoch: {error!r}") from error
    if not numbers:
        raise ValueError(f"{file} contains no finished epoch yet")
    keys = list(dict.fromkeys(key for row in numbers.values() for key in row))
    return {key: [numbers[epoch].get(key, math.nan) for epoch in sorted(numbers)] for key in keys}


def _names(files: Sequence[Path]) -> list[str]:
    """Return each file's folder, with as many parent folders as needed to tell the files apart."""
    parts = [file.resolve().parent.parts if file.name == "summary.csv" else file.resolve().parts for file in files]
    depth = 1
    while depth < max(map(len, parts)) and len({part[-depth:] for part in parts}) < len(set(parts)):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def group_by_seed(runs: Sequence[Curves]) -> dict[str, list[Curves]]:
    """Group runs in folders METHOD/SEED by method; any other run forms a separate group.

    Example:
        >>> list(group_by_seed([Curves("a/0", {}), Curves("a/1", {}), Curves("b", {})]))
        ['a', 'b']
    """
    groups: dict[str, list[Curves]] = {}
    for run in runs:
        method, _, seed = run.name.rpartition("/")
        groups.setdefault(method if method and seed.isdigit() else run.name, []).append(run)
    return groups


def plot_curves(runs: Sequence[Curves], path: str | Path) -> Path:
    """Draw runs: training and evaluation loss, top-1, and, if a run has it, the share of exchanged batches.

    Runs in folders METHOD/SEED are drawn in one colour per method: a line for the mean and a band over the seeds. If a
    run has the training loss on the samples' own labels, that loss is drawn, so that overfitting can be compared.
    """
    for run in runs:
        if not {"train_loss", "eval_loss", "eval_top1"} & run.columns.keys():
            raise ValueError(f"{run.name}: expected train_loss, eval_loss or eval_top1, got {', '.join(run.columns)}")
    panels = [panel for panel in PANELS if any(column in run.columns for run in runs for column in panel[1])]
    groups = group_by_seed(runs)
    figure = new_figure(5 * len(panels), 4.2)
    for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        plot_panel(axis, panel, groups)
    add_legend(figure, list(groups))
    return save_figure(figure, path, made_by="timm-moex curves")


def plot_panel(axis: Any, panel: tuple[str, Sequence[str], float], groups: Mapping[str, Sequence[Curves]]) -> None:
    """Draw one of `PANELS`: a line and a band for each group of runs, in the order of the colours."""
    title, columns, factor = panel
    for runs, colour in zip(groups.values(), cycle(COLOURS)):
        for column in columns:
            tables = [run.columns for run in runs]
            values = [v for table in tables if (v := table.get(f"{column}_own") or table.get(column))]
            if values:
                _draw_band(axis, values, factor, colour, "--" if column == "train_loss" else "-")
    axis.set_title(title, fontsize=12)
    has_bands = any(len(runs) > 1 for runs in groups.values())
    axis.set_xlabel("epoch (bands: range of the seeds)" if has_bands else "epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)
    open_frame(axis)
    if title == "loss":
        kinds = (("--", "training"), ("-", "evaluation"))
        lines = [_line(linestyle=style, label=word, color="#444444") for style, word in kinds]
        axis.legend(handles=lines, frameon=False)
    if columns == ("train_exchanged",):
        axis.set_ylim(-3, 103)


def _draw_band(axis: Any, runs: Sequence[Sequence[float]], factor: float, colour: str, dashes: str) -> None:
    """Draw the mean and range of runs, up to the last epoch that all of them have reached."""
    by_epoch = [[factor * value for value in values] for values in zip(*runs)]
    epochs = range(1, len(by_epoch) + 1)
    means = [sum(values) / len(values) for values in by_epoch]
    marker = "o" if len(means) <= 30 else ""
    axis.plot(epochs, means, color=colour, linestyle=dashes, marker=marker, markersize=3.5, linewidth=1.6)
    if len(runs) > 1:
        low, high = list(map(min, by_epoch)), list(map(max, by_epoch))
        axis.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)


def add_legend(figure: Any, names: Sequence[str]) -> None:
    """Name the groups' colours below the panels."""
    lines = [_line(color=colour, label=name, linewidth=2) for name, colour in zip(names, cycle(COLOURS))]
    figure.legend(handles=lines, loc="outside lower center", ncols=min(len(names), 4), frameon=False)


def _line(**style: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], **style)
