"""Access to the lines of the CSV files, for the tables and figures of the report."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from .._results import RESULTS
from ._curves import Curve, read_curves

METHODS = {
    "baseline": "baseline",
    "mixup": "Mixup",
    "cutmix": "CutMix",
    "moex": "MoEx",
    "moex_lam1": "MoEx, λ = 1",
    "cutmix_moex": "CutMix + MoEx",
    "cutmix_moex_lam05": "CutMix + MoEx, λ = 0.5",
    "smoothing": "Label smoothing",
}
GROWTH = "cpu-growth-"  # presets with this prefix have a separate table
NONE = "No run yet.\n"


def presets() -> dict[str, dict[str, Any]]:
    """Read presets.yaml: the settings under each name."""
    return yaml.safe_load((Path(__file__).parent / "presets.yaml").read_text())


def by_seed(rows: Sequence[dict], value: Callable[[dict], float]) -> dict[str, float]:
    return {row["seed"]: value(row) for row in rows}


def in_order(methods: dict[tuple[str, ...], list[dict]]) -> list[tuple[str, list[dict]]]:
    return [(name, methods[(name,)]) for name in METHODS if (name,) in methods]


def test_error(row: dict) -> float:
    return 100 - float(row["test_top1"])


def test_loss(row: dict) -> float:
    return float(row["test_loss"])


def cost(rows: Sequence[dict], baseline: Sequence[dict]) -> str:
    """Divide the processor time (on a GPU: wall time) of a method by the baseline's.

    Unknown times are ignored. So are days on which only one of the two ran, because a machine of the same name may be
    three times as fast on another day.
    """
    column = "cpu_seconds" if rows[0]["device"] == "cpu" else "seconds"
    days = {row["date"] for row in rows} & {row["date"] for row in baseline}
    ours, theirs = (
        [float(row[column]) for row in part if row[column] and row["date"] in days] for part in (rows, baseline)
    )
    return f"{sum(ours) / len(ours) / (sum(theirs) / len(theirs)):.2f}" if ours and theirs else "–"


def epochs_of(rows: Sequence[dict]) -> str:
    counts = {len(all_curves()[row["curve"]]) for row in rows}
    return f"{', '.join(str(count) for count in sorted(counts))} epochs"


def source(rows: Sequence[dict]) -> str:
    """Describe in one line the devices and versions that the rows were measured with."""
    parts = []
    for name, word in (("processor", ""), ("torch", "torch "), ("timm", "timm "), ("commit", "commit "), ("date", "")):
        parts.append(word + ", ".join(sorted({row[name] for row in rows if row.get(name)})))
    threads = ", ".join(sorted({row["threads"] for row in rows}))
    return f"({parts[0]}, {threads} thread{'s' * (threads != '1')} per run, {'; '.join(parts[1:])})\n"


def validation_top1(row: dict) -> float:
    return float(row["monitored_top1"])


@cache
def all_curves() -> dict[str, Curve]:
    """Read the curves of the results folder once."""
    return read_curves(RESULTS)


def read_curve(row: dict, column: str) -> list[float]:
    """Read a column of a run's learning curve, by epoch."""
    return [float(line[column]) for line in all_curves()[row["curve"]]]


def mean_by_seed(rows: Sequence[dict], column: str, corruptions: Sequence[str]) -> dict[str, float]:
    """Map each seed to the mean of a column over these corruptions, all severities."""
    values = defaultdict(list)
    for row in rows:
        if row["corruption"] in corruptions:
            values[row["seed"]].append(float(row[column]))
    return {seed: sum(numbers) / len(numbers) for seed, numbers in values.items()}
