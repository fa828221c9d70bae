"""Read and write curves.csv, the learning curves of all runs: one row per epoch, named by the column `curve`."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from .._results import append_rows, read_rows

COLUMNS = ("curve", "epoch", "train_loss", "train_exchanged", "train_loss_own")
COLUMNS += ("eval_loss", "eval_top1", "eval_top5", "eval_count", "lr")
Curve = list[dict[str, str]]


def read_curves(results: Path) -> dict[str, Curve]:
    """Map the name of each curve in a results folder to its rows."""
    curves: dict[str, Curve] = {}
    for row in read_rows("curves", results):
        curves.setdefault(row.pop("curve"), []).append(row)
    return curves


def append_curve(results: Path, name: str, rows: Iterable[Mapping[str, str]]) -> None:
    """Append a curve; columns that curves.csv does not have are ignored."""
    lines = [{"curve": name, **row} for row in rows]
    append_rows(results / "curves.csv", [{column: line.get(column, "") for column in COLUMNS} for line in lines])
