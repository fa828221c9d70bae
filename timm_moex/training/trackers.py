"""Trackers that receive the metrics of each epoch: Weights & Biases and TensorBoard, both optional packages."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .evaluate import flat_metrics

__all__ = ["check_trackers", "open_trackers"]

Tracker = Callable[[Mapping[str, Any]], None]


def check_trackers(args: argparse.Namespace) -> None:
    """Check that a run's trackers are installed before the run writes anything.

    Args:
        args: `Recipe.arguments()`; `log_wandb` and the `wandb_` keys have the same meaning as in train.py.

    Raises:
        ImportError: A package is missing.

    Example:
        >>> check_trackers(argparse.Namespace(log_wandb=False, log_tensorboard=False))
    """
    if args.log_wandb:
        _import_wandb()
    if args.log_tensorboard:
        _import_summary_writer()


@contextmanager
def open_trackers(args: argparse.Namespace, folder: Path, *, epochs_done: int = 0) -> Iterator[Tracker]:
    """Open the trackers of a run.

    Args:
        args: See `check_trackers`.
        folder: The run folder; its name is the run's name in Weights & Biases, and TensorBoard's events are written to
            its subfolder tensorboard/.
        epochs_done: Number of epochs that a resumed run keeps; TensorBoard discards later ones.

    Yields:
        A function to call with each epoch's row of the history.
    """
    opened: list[Any] = []
    if args.log_wandb:
        opened.append(_Wandb(args, folder))
    if args.log_tensorboard:
        opened.append(_TensorBoard(folder / "tensorboard", epochs_done))

    def log(row: Mapping[str, Any]) -> None:
        parts = {part: flat_metrics(row[part]) for part in ("train", "eval")}
        values = {f"{part}_{key}": value for part, metrics in parts.items() for key, value in metrics.items()}
        for tracker in opened:
            tracker.log(row["epoch"], values | {"lr": row["lr"]})

    failed = True
    try:
        yield log
        failed = False
    finally:
        for tracker in opened:
            tracker.close(failed)


class _Wandb:
    def __init__(self, args: argparse.Namespace, folder: Path):
        resume: Any = {"resume": "must", "id": args.wandb_resume_id} if args.wandb_resume_id else {}
        self.run = _import_wandb().init(
            project=args.wandb_project, name=folder.name, config=vars(args), tags=args.wandb_tags, **resume
        )

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        self.run.log({"epoch": epoch, **values})  # the columns of summary.csv, as in timm's update_summary

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class _TensorBoard:
    def __init__(self, folder: Path, epochs_done: int):
        self.writer = _import_summary_writer()(folder, purge_step=epochs_done or None)

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key.replace("_", "/", 1), value, epoch)
        self.writer.flush()

    def close(self, failed: bool) -> None:
        self.writer.close()


def _import_wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ImportError("log_wandb: true needs wandb: pip install wandb") from error
    return wandb


def _import_summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("log_tensorboard: true (--tensorboard) needs TensorBoard: pip install tensorboard") from error
    return SummaryWriter
