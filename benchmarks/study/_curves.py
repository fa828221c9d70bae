"""Read and write curves.csv, the learning curves of all runs: one row per epoch, named by the column `curve`."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

COLUMNS = ("curve", "epoch", "train_loss", "train_exchanged", "train_loss_own")
COLUMNS += ("eval_loss", "eval_top1", "eval_top5", "eval_count", "lr")
Curve = list[dict[str, str]]


def read_curves(results: Path) -> dict[str, Curve]:
    """Map the name of each curve in a results folder to its rows."""
    curves: dict[str, Curve] = {}
    if (results / "curves.csv").exists():
        with (results / "curves.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                curves.setdefault(row.pop("curve"), []).append(row)
    return curves


def append_curve(results: Path, name: str, rows: Iterable[Mapping[str, str]]) -> None:
    """Append a curve; columns that curves.csv does not have are ignored."""
    table = results / "curves.csv"
    fresh = not table.exists()
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", extrasaction="ignore")
        if fresh:
            writer.writeheader()
        writer.writerows({"curve": name, **row} for row in rows)
