"""Runs one after the other or side by side, each in a process of its own that a crash cannot take the others with."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import torch

from .run import Run

__all__ = ["run_all"]

Event = dict[str, Any]


def run_all(
    runs: Sequence[Run],
    listen: Callable[[Run | None, Event], None],
    *,
    jobs: int = 1,
    threads: int | None = None,
    log: Path | None = None,
) -> None:
    """Train the runs that are not finished, in order.

    Args:
        runs: What to train.
        listen: Called in this thread with a run and an event: `started`; `epoch`, `epochs` and `seconds`; `note`;
            `done`; or `failed` with the reason. Also called with None and {} about once a second.
        jobs: Number of runs side by side.
        threads: PyTorch's threads in each; default: those of this process, divided by `jobs`.
        log: File that takes what the runs' libraries print, and tracebacks.
    """
    waiting = deque(run for run in runs if not run.is_finished)
    events: queue.Queue[tuple[Run | None, Event]] = queue.Queue()
    threads = threads or max(1, torch.get_num_threads() // jobs)
    workers: list[subprocess.Popen] = []
    with (log or Path(os.devnull)).open("ab") as errors:
        slots = [
            threading.Thread(target=_work, args=(waiting, events, threads, workers, errors), daemon=True)
            for _ in range(min(jobs, len(waiting)))
        ]
        for slot in slots:
            slot.start()
        try:
            while any(slot.is_alive() for slot in slots) or not events.empty():
                try:
                    listen(*events.get(timeout=1))
                except queue.Empty:
                    listen(None, {})
        finally:
            waiting.clear()
            for worker in workers:
                worker.kill()


def _work(
    waiting: deque[Run], events: queue.Queue, threads: int, workers: list[subprocess.Popen], errors: IO[bytes]
) -> None:
    """Train waiting runs in one process, and in a new one after a crash."""
    worker = None
    while waiting:
        try:
            run = waiting.popleft()
        except IndexError:  # another slot was faster
            break
        if worker is None:
            worker = _start(errors, threads)
            workers.append(worker)
        last: Event = {}
        for last in _train(worker, run, threads):
            events.put((run, last))
        if not {"done", "failed"} & last.keys():
            events.put((run, {"failed": f"its process ended with exit code {worker.wait()}"}))
            worker = None
    if worker is not None:
        worker.stdin.close()  # type: ignore[union-attr]  # which ends it
        worker.wait()


def _start(errors: IO[bytes], threads: int) -> subprocess.Popen:
    # OpenMP's threads spin while they wait by default, and take the cores from each other's runs
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "OMP_NUM_THREADS": str(threads)}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.worker"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True, encoding="utf-8",
    )  # fmt: skip


def _train(worker: subprocess.Popen, run: Run, threads: int) -> Iterator[Event]:
    order = {"name": run.recipe.name, "settings": run.recipe.settings, "folder": str(run.folder), "threads": threads}
    order |= {"test_split": run.test_split, "test_held_out": run.test_held_out}
    assert worker.stdin is not None and worker.stdout is not None
    try:
        worker.stdin.write(json.dumps(order) + "\n")
        worker.stdin.flush()
    except BrokenPipeError:
        return
    for line in worker.stdout:
        event = json.loads(line)
        yield event
        if {"done", "failed"} & event.keys():
            return
