"""Trainings side by side, each in a process of its own; resumable; one line per run in a CSV.

A run is one call of the built-in trainer. The content of its folder decides how much is left to do:
nothing, the rest of the epochs, or all of them. The CSV has a line
only for a run that reached its last epoch and was evaluated, once.
"""

import csv
import hashlib
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from timm_moex.hub import load_model
from timm_moex.training.loop import train
from timm_moex.training.recipe import Recipe
from timm_moex.utils.devices import pick_device

from .._results import append_row, environment

# Paths and speed, which do not change the trained model
_NOT_SETTINGS = frozenset(
    {
        "data_dir",
        "pretrained_path",
        "initial_checkpoint",
        "device",
        "workers",
        "pin_mem",
        "output",
        "experiment",
        "log_interval",
        "seed",
    }
)


@dataclass(frozen=True)
class Job:
    """A training to run.

    Attributes:
        columns: The values that identify it, which become the first columns of its line.
        recipe: The whole recipe, including data_dir, device and seed.
        folder: Folder of the run.
        pad: None for timm's loader; else --in-memory, with a crop out of the image padded by so many pixels.
    """

    columns: dict[str, str]
    recipe: Recipe
    folder: Path
    pad: int | None = None

    @property
    def settings(self) -> str:
        """Hash everything that was trained with, except the seed, to eight hexadecimal digits."""
        settings = {k: v for k, v in self.recipe.settings.items() if k not in _NOT_SETTINGS} | {"pad": self.pad}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


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
        evaluate: A module's function: the trained model, as its folder loads, to the result's columns. Called once.
        table: The CSV; curves are copied into the folder `curves` next to it.
        parallel: Number of processes at a time.
        threads: Number of PyTorch threads in each process.

    Raises:
        ValueError: The table has a line of the same run with other settings, or other columns.
        SystemExit: Runs failed; the others have their lines.
    """
    rows = _read(table)
    waiting = [job for job in jobs if not _is_done(job, rows, table)]
    print(f"{table.name}: {len(jobs) - len(waiting)} of {len(jobs)} runs are there, {len(waiting)} to do", flush=True)
    failed = []
    with ThreadPoolExecutor(parallel) as pool:
        curves = table.parent / "curves" / table.stem
        futures = {pool.submit(_do_in_own_process, job, evaluate, curves, threads): job for job in waiting}
        for future in as_completed(futures):
            job = futures[future]
            if error := future.exception():
                failed.append(f"{job.folder}: {type(error).__name__}: {error}")
                print(failed[-1], flush=True)
            else:
                append_row(table, job.columns | future.result())
                print(f"{job.folder.name}: {future.result()}", flush=True)
    if failed:
        raise SystemExit("\n".join(["failed:", *failed]))


def _is_done(job: Job, rows: list[dict[str, str]], table: Path) -> bool:
    same = [row for row in rows if all(row.get(key) == value for key, value in job.columns.items())]
    for row in same:
        if row["settings"] != job.settings:
            raise ValueError(
                f"{table}: the line of {job.columns} is of other settings ({row['settings']}, now {job.settings}); "
                "take the line out, or give another --output"
            )
    return bool(same)


def _do_in_own_process(*args: Any) -> dict[str, Any]:
    """Call `_do` in a fresh process, where CUDA, seeds and threads start clean."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_do, *args).result()


def _do(job: Job, evaluate: Callable, curves: Path, threads: int | None) -> dict[str, Any]:
    """Train the remaining epochs and evaluate; runs in the job's own process."""
    if threads:
        torch.set_num_threads(threads)
    training = job.folder / "training.json"
    if not training.exists():
        training.write_text(json.dumps(_train(job)))
    facts = json.loads(training.read_text())
    result = evaluate(load_model(job.folder / "hub"), job)
    curve = curves / f"{job.folder.name}.csv"
    curve.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(job.folder / "summary.csv", curve)
    return result | facts | {"settings": job.settings, "curve": f"{curves.name}/{curve.name}"}


def _train(job: Job) -> dict[str, Any]:
    last, recipe = job.folder / "last.pth.tar", job.recipe
    spent = job.folder / "seconds.json"  # wall and processor time up to the last whole epoch, over all attempts
    before = [0.0, 0.0]
    if last.exists():
        recipe = recipe.override(resume=str(last))
        before = json.loads(spent.read_text())
    start = time.perf_counter(), time.process_time()

    def after_epoch(line: str) -> None:
        now = time.perf_counter(), time.process_time()
        spent.write_text(json.dumps([earlier + end - begin for earlier, begin, end in zip(before, start, now)]))
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():  # another process may be going on with this run
            raise SystemExit("the process that started this run is gone")

    in_memory = {} if job.pad is None else {"in_memory": True, "pad": job.pad}
    result = train(recipe, job.folder, progress=False, log=after_epoch, **in_memory)
    facts = {f"monitored_{key}": round(result.metrics[key], 4) for key in ("top1", "loss")}
    facts |= {key: round(value, 1) for key, value in zip(("seconds", "cpu_seconds"), json.loads(spent.read_text()))}
    return facts | environment(pick_device(recipe.arguments().device), "timm_moex")


def _read(table: Path) -> list[dict[str, str]]:
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))
