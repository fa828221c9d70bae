"""Progress of a training run: the rows of its summary.csv, and its best epoch."""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Progress", "read_summary"]


@dataclass
class Progress:
    """Progress of a run.

    Attributes:
        history: One row of summary.csv per finished epoch: `epoch`, `train` and `eval` (metrics), `lr`.
        best: `epoch` of the best epoch and its value of the recipe's eval_metric; empty before the first epoch ends.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)

    @property
    def epochs_done(self) -> int:
        return len(self.history)

    @property
    def metrics(self) -> dict[str, Any]:
        """Evaluation metrics of the last finished epoch."""
        return self.history[-1]["eval"]

    @property
    def is_best(self) -> bool:
        """Whether the last finished epoch is the best."""
        return bool(self.history) and self.best["epoch"] == self.history[-1]["epoch"]

    def add(self, train_metrics: dict[str, float], metrics: dict[str, Any], lr: float, key: str) -> None:
        """Add a finished epoch.

        Args:
            train_metrics: Metrics of the training.
            metrics: Metrics of the evaluation.
            lr: Learning rate at the end of the epoch.
            key: Metric that chooses the best epoch; the earlier epoch wins a tie.
        """
        epoch, value = self.epochs_done, metrics[key]
        if self.history:  # all rows share one header, so a run begun with an older version keeps its columns
            train_metrics = {name: train_metrics[name] for name in self.history[0]["train"] if name in train_metrics}
        self.history.append({"epoch": epoch, "train": train_metrics, "eval": metrics, "lr": lr})
        if not self.best or (value < self.best[key] if key == "loss" else value > self.best[key]):
            self.best = {"epoch": epoch, key: value}


def read_summary(path: Path, epoch: int) -> list[dict[str, Any]]:
    """Read the history up to `epoch` from summary.csv, for a checkpoint of a version that did not store it.

    Raises:
        ValueError: The file cannot be read, or an epoch is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= epoch]
        history = [_row_from_text(row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read, and the checkpoint does not contain its rows") from error
    if [row["epoch"] for row in history] != list(range(epoch + 1)):
        raise ValueError(f"{path} lacks epochs before {epoch}, and the checkpoint does not contain them")
    return history


def _row_from_text(row: dict[str, str]) -> dict[str, Any]:
    def metrics(prefix: str) -> dict[str, Any]:
        values = {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}
        return {key: int(value) if value.isdecimal() else float(value) for key, value in values.items()}

    return {"epoch": int(row["epoch"]), "train": metrics("train_"), "eval": metrics("eval_"), "lr": float(row["lr"])}
