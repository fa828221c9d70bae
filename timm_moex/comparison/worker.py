"""Worker process that trains one run after another: `python -m timm_moex.comparison.worker`.

It reads orders from stdin and writes events to stdout, one JSON object per line. It exits as soon as stdin closes, so
that no training outlives the command that started it, even if that command is killed.
"""

import json
import os
import platform
import queue
import re
import signal
import statistics
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import timm
import torch

from ..pictures.curves import read_curves
from ..training.evaluate import evaluate
from ..training.inference import open_inference
from ..training.loop import train
from ..training.recipe import Recipe
from ..training.run_folder import RunFolder
from ..utils.messages import one_line
from .run import Run, comparable

__all__ = ["main"]

_EPOCH = re.compile(r"epoch (\d+)/(\d+)  train loss")
_TIME_LEFT = re.compile(r"about .+ left for ")
_WAIT_FOR_ORPHANS = 30  # seconds; loader processes of a killed run hold its lock until they exit


def main() -> None:
    """Train the ordered runs until there are no more orders."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent handles it
    lines, events = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not end up among the events
    # A forked loader process closes sys.stdin; if a thread is reading it, that would wait forever for the thread's lock
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    orders: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read_orders, args=(lines, orders), daemon=True).start()

    def say(**event: Any) -> None:
        events.write(json.dumps(event) + "\n")

    while True:
        order = orders.get()
        try:
            recipe = Recipe(order["name"], order["settings"], written=frozenset())
            run = Run(recipe, Path(order["folder"]), group=order["group"], test_split=order["test_split"])
            do(run, order["threads"], say)
            say(done=True)
        except Exception as error:  # any type: report this run as failed and continue with the others
            traceback.print_exc()
            say(failed=f"{type(error).__name__}: {one_line(error)}")


def _read_orders(lines: Iterable[str], orders: queue.Queue) -> None:
    for line in lines:
        orders.put(json.loads(line))
    os._exit(0)


def do(run: Run, threads: int, say: Callable[..., None]) -> None:
    """Train the rest of a run, then test it if it has a test; call `say` with each event."""
    torch.set_num_threads(threads)
    say(started=True)
    if (result := run.result) is None:
        result = _train(run, say)
        run.write_result(result)
    if run.has_test and "test" not in result:
        run.write_result(result | {"test": _test(run)})


def _train(run: Run, say: Callable[..., None]) -> dict[str, Any]:
    timing = run.folder / "timing.json"  # wall and processor time of each epoch, including earlier attempts
    epochs = json.loads(timing.read_text(encoding="utf-8")) if timing.is_file() and run.epochs_done else []
    mark = [time.perf_counter(), time.process_time()]

    def listen(line: str) -> None:
        if (found := _EPOCH.match(line)) is None:
            if not _TIME_LEFT.match(line):  # this run's estimate; the comparison prints its own
                say(note=line)
            return
        now = [time.perf_counter(), time.process_time()]
        epochs.append([after - before for before, after in zip(mark, now)])
        mark[:] = now
        timing.write_text(json.dumps(epochs), encoding="utf-8")
        say(epoch=int(found[1]), epochs=int(found[2]), seconds=epochs[-1][0])

    with RunFolder(run.folder).locked(timeout=_WAIT_FOR_ORPHANS):
        pass
    result = train(run.recipe.override(resume="auto"), run.folder, progress=False, log=listen)
    (curves,) = read_curves([run.folder])
    later = epochs[1:] or epochs  # the first epoch includes the set-up
    return {
        "metrics": result.metrics,
        "train": {key: values[-1] for key, values in curves.columns.items() if key.startswith("train_")},
        "epochs": len(curves.columns["epoch"]),
        "seconds": sum(wall for wall, _ in epochs),
        "cpu_seconds": sum(cpu for _, cpu in epochs),
        "seconds_per_epoch": statistics.median(wall for wall, _ in later) if later else None,
        "cpu_seconds_per_epoch": statistics.median(cpu for _, cpu in later) if later else None,
        "environment": _environment(run.recipe),
        "settings": comparable(run.recipe.settings),
    }


def _environment(recipe: Recipe) -> dict[str, Any]:
    device = torch.device(recipe.arguments().device)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _test(run: Run) -> dict[str, Any]:
    args = run.recipe.arguments()
    opened = open_inference(
        str(run.folder / "hub"),
        args.data_dir,
        dataset=args.dataset,
        split=run.test_split,
        group_folders=args.group_folders,
        only_group=run.group or None,
        workers=args.workers,
        device=args.device,
        batch_size=args.validation_batch_size or args.batch_size,
    )
    metrics = evaluate(opened.model, opened.loader, opened.device)
    return {key: value for key, value in metrics.items() if isinstance(value, (int, float))}


if __name__ == "__main__":
    main()
