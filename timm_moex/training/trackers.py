"""Trackers that receive the metrics of each epoch: Weights & Biases and TensorBoard, both optional packages."""

import argparse
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .evaluate import flat_metrics

__all__ = ["check_trackers", "open_trackers"]

_WANDB = ("wandb", "log_wandb: true needs wandb: pip install wandb")
_TENSORBOARD = (
    "torch.utils.tensorboard",
    "log_tensorboard: true (--tensorboard) needs TensorBoard: pip install tensorboard",
)


def _import(module: str, message: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(message) from error


def check_trackers(args: argparse.Namespace) -> None:
    """Check that a run's trackers are installed before the run writes anything."""
    for wanted, package in ((args.log_wandb, _WANDB), (args.log_tensorboard, _TENSORBOARD)):
        if wanted:
            _import(*package)


@contextmanager
def open_trackers(
    args: argparse.Namespace, folder: Path, *, epochs_done: int = 0
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Open the trackers of a run; yield a function to call with each epoch's row of the history.

    The run folder's name is the run's name in Weights & Biases, and its subfolder tensorboard/ gets TensorBoard's
    events, which discards those after `epochs_done`.
    """
    run: Any = None
    writer: Any = None
    if args.log_wandb:
        resume = {"resume": "must", "id": args.wandb_resume_id} if args.wandb_resume_id else {}
        named = dict(project=args.wandb_project, name=folder.name, tags=args.wandb_tags)
        run = _import(*_WANDB).init(config=vars(args), **named, **resume)
    if args.log_tensorboard:
        writer = _import(*_TENSORBOARD).SummaryWriter(folder / "tensorboard", purge_step=epochs_done or None)

    def log(row: Mapping[str, Any]) -> None:
        values = {
            f"{part}_{key}": value for part in ("train", "eval") for key, value in flat_metrics(row[part]).items()
        }
        values["lr"] = row["lr"]
        if run is not None:
            run.log({"epoch": row["epoch"], **values})  # the columns of summary.csv, as in timm's update_summary
        if writer is not None:
            for key, value in values.items():
                writer.add_scalar(key.replace("_", "/", 1), value, row["epoch"])
            writer.flush()

    failed = True
    try:
        yield log
        failed = False
    finally:
        if run is not None:
            run.finish(exit_code=int(failed))
        if writer is not None:
            writer.close()
