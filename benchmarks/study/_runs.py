"""Train runs by `timm_moex.comparison` and append a CSV line for each.

A run has a line only if it has reached its last epoch and been evaluated, once.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from timm_moex.comparison.run import Run, comparable
from timm_moex.comparison.runner import run_all
from timm_moex.hub import load_model
from timm_moex.training.recipe import Recipe
from timm_moex.utils.devices import pick_device

from .._results import append_rows, environment, read_rows
from ._curves import append_curve, read_curves


@dataclass(frozen=True)
class Job:
    """A run to train.

    Attributes:
        columns: Values that identify the run, which become the first columns of its line.
        recipe: Complete recipe, including data_dir, device and seed.
        folder: Folder of the run.
    """

    columns: dict[str, str]
    recipe: Recipe
    folder: Path

    @property
    def settings(self) -> str:
        """Hash everything that was trained with, except the seed, to eight hexadecimal digits."""
        settings = comparable(self.recipe.settings)
        pad = (
            settings.pop("pad", 4) if settings.pop("in_memory", False) else None
        )  # the lines in the CSV were hashed this way
        return hashlib.sha256(json.dumps(settings | {"pad": pad}, sort_keys=True).encode()).hexdigest()[:8]


def run_jobs(
    jobs: Sequence[Job],
    evaluate: Callable[[nn.Module, Job], dict[str, Any]],
    table: Path,
    *,
    parallel: int = 1,
    threads: int | None = None,
) -> None:
    """Run the jobs that have no line in the table yet, and append their lines.

    Args:
        jobs: The jobs, in the order to run them.
        evaluate: Maps the trained model, loaded from its folder, to the columns of the result. Called once per run.
        table: The CSV; curves are appended to curves.csv in the same folder.
        parallel: Number of processes at a time.
        threads: Number of PyTorch threads in each process.

    Raises:
        ValueError: The table has a line of the same run with other settings, or other columns.
        SystemExit: Runs failed; all others have been appended.
    """
    rows = read_rows(table.stem, table.parent)
    waiting = {Run(job.recipe, job.folder): job for job in jobs if not _is_done(job, rows, table)}
    print(
        f"{table.name}: {len(jobs) - len(waiting)} of {len(jobs)} runs are finished, {len(waiting)} to do", flush=True
    )
    failed = []

    def listen(run: Run | None, event: dict[str, Any]) -> None:
        if run is not None and "failed" in event:
            failed.append(f"{run.folder}: {event['failed']}")
            print(failed[-1], flush=True)
        elif run is not None and "done" in event:
            _append_line(waiting[run], run, evaluate, table)

    for run in [run for run in waiting if run.is_finished]:  # the command was stopped before it evaluated them
        _append_line(waiting[run], run, evaluate, table)
    run_all(list(waiting), listen, jobs=parallel, threads=threads)
    if failed:
        raise SystemExit("\n".join(["failed:", *failed]))


def _is_done(job: Job, rows: list[dict[str, str]], table: Path) -> bool:
    same = [row for row in rows if all(row.get(key) == value for key, value in job.columns.items())]
    for row in same:
        if row["settings"] != job.settings:
            raise ValueError(
                f"{table}: the line of {job.columns} has other settings ({row['settings']}, now {job.settings}); "
                "remove the line or use another table"
            )
    return bool(same)


def _append_line(job: Job, run: Run, evaluate: Callable[[nn.Module, Job], dict[str, Any]], table: Path) -> None:
    run.check()
    result, name = run.result, f"{table.stem}/{run.folder.name}"
    assert result is not None
    facts = {f"monitored_{key}": round(result["metrics"][key], 4) for key in ("top1", "loss")}
    facts |= {key: round(result[key], 1) for key in ("seconds", "cpu_seconds")}
    facts |= environment(pick_device(job.recipe.arguments().device), "timm_moex")
    facts |= {key: str(result["environment"][key]) for key in ("threads", "torch", "timm", "python", "date")}
    line = job.columns | evaluate(load_model(run.folder / "hub"), job) | facts
    if name not in read_curves(table.parent):
        with (run.folder / "summary.csv").open(newline="") as file:
            append_curve(table.parent, name, list(csv.DictReader(file)))
    append_rows(table, [line | {"settings": job.settings, "curve": name}])
    print(f"{run.folder.name}: {line}", flush=True)
