"""Train runs one after another or in parallel, in separate processes, so that a crash stops only one of them."""

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
    """Train the unfinished runs in order.

    Args:
        runs: The runs to train.
        listen: Called in this thread with a run and an event: `started`; `epoch`, `epochs` and `seconds`; `note`;
            `done`; or `failed` with the reason. Also called with None and {} about once a second.
        jobs: Number of runs to train in parallel.
        threads: Number of PyTorch threads per run; default: this process's threads divided by `jobs`.
        log: File for tracebacks and for the output of libraries.
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
    """Train waiting runs in one process; start a new one after a crash."""
    worker = None
    while True:
        try:
            run = waiting.popleft()
        except IndexError:
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
        worker.stdin.close()  # type: ignore[union-attr]  # tells the worker to exit
        worker.wait()


def _start(errors: IO[bytes], threads: int) -> subprocess.Popen:
    # By default, OpenMP threads spin while they wait, which takes CPU time from the other runs
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "OMP_NUM_THREADS": str(threads)}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=environment,
        text=True,
        encoding="utf-8",
    )


def _train(worker: subprocess.Popen, run: Run, threads: int) -> Iterator[Event]:
    order = {"name": run.recipe.name, "settings": run.recipe.settings, "folder": str(run.folder), "threads": threads}
    order |= {"test_split": run.test_split, "group": run.group}
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
