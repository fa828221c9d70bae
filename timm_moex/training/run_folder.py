"""The folder of a training run: which files it gets, in which order, and how an interrupted run is completed.

After every epoch last.pth.tar is written first; it also holds the rows of summary.csv. Then follow summary.csv, after
the best epoch so far model_best.pth.tar, after those of `save_epochs` milestone-N.pth.tar, and after the last epoch
hub/. Each of them appears whole or not at all, and each can be made from last.pth.tar: a run that is killed at any
moment can be resumed and ends with the same files.
"""

import csv
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from filelock import Timeout
from timm.utils import update_summary

from ..hub.folder import FILES, foreign_entries
from ..utils.files import lock_of, remove_leftovers, write_atomically
from .checkpoint import get_rng_state, load_checkpoint, save_checkpoint
from .recipe import Recipe, stock_keys
from .setup import TrainingSetup

__all__ = ["Progress", "RunFolder"]

# Settings that a resumed run may change: paths, and speed. The result is bit-exact only on the same device and, without
# --in-memory, with the same number of workers.
_MAY_DIFFER = frozenset(
    {"output", "experiment", "data_dir", "workers", "log_interval", "pin_mem", "device", "device_modules"}
    | {"stop_epoch", "save_epochs"}
    | {"log_wandb", "wandb_project", "wandb_tags", "wandb_resume_id"}
)
_NOTE = "# timm-moex train"


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        history: A row of summary.csv for each epoch done: `epoch`, `train` and `eval` (metrics), `lr`.
        best: The best epoch's `epoch` and its value of the recipe's eval_metric; empty before the first.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)

    @property
    def epochs_done(self) -> int:
        return len(self.history)

    @property
    def metrics(self) -> dict[str, Any]:
        """Evaluation after the last epoch done."""
        return self.history[-1]["eval"]

    @property
    def is_best(self) -> bool:
        """Whether the last epoch done is the best one."""
        return bool(self.history) and self.best["epoch"] == self.history[-1]["epoch"]

    def add(self, train_metrics: dict[str, float], metrics: dict[str, Any], lr: float, key: str) -> None:
        """Add an epoch.

        Args:
            train_metrics: Figures of the training.
            metrics: Figures of the evaluation.
            lr: The learning rate it ended with.
            key: The metric that chooses the best epoch; the earlier one of two equal epochs stays.
        """
        epoch, value = self.epochs_done, metrics[key]
        self.history.append({"epoch": epoch, "train": train_metrics, "eval": metrics, "lr": lr})
        if not self.best or (value < self.best[key] if key == "loss" else value > self.best[key]):
            self.best = {"epoch": epoch, key: value}


class RunFolder:
    """A run's folder: last.pth.tar, model_best.pth.tar, summary.csv, recipe.yaml and hub/.

    Args:
        path: The folder; it is made when the run starts.

    Example:
        >>> folder = RunFolder("output/first_run")
        >>> folder.last.name, folder.hub.name
        ('last.pth.tar', 'hub')
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        self.last, self.best = self.path / "last.pth.tar", self.path / "model_best.pth.tar"
        self.summary, self.recipe, self.hub = (self.path / name for name in ("summary.csv", "recipe.yaml", "hub"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other trainings out of the folder; the system frees it when the process ends, however it ends.

        Raises:
            FileExistsError: Another training writes to the folder.
        """
        lock = lock_of(self.path, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise FileExistsError(
                f"another training writes to {self.path} at this moment; wait for its end or choose another --output"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def check(self, resume: str | None) -> None:
        """Refuse a folder whose files would be lost, and a checkpoint that is not the folder's own.

        Args:
            resume: The checkpoint to go on from; None for a new run.

        Raises:
            FileExistsError: A new run would replace files; the message names them.
            FileNotFoundError: There is no file `resume`.
            ValueError: `resume` is not the folder's last.pth.tar.
        """
        if foreign := foreign_entries(self.hub):
            raise FileExistsError(
                f"{self.hub} holds {', '.join(foreign)}, which timm_moex did not write; choose another --output"
            )
        if resume:
            self._check_resume(Path(resume))
        elif self.last.exists():
            raise FileExistsError(
                f"{self.path} holds a run already; go on with --resume {self.last}, or choose another --output"
            )
        elif there := self._files_of_others():
            raise FileExistsError(f"{self.path} holds {', '.join(there)} already; choose another --output")

    def _check_resume(self, resume: Path) -> None:
        if not resume.is_file():
            raise FileNotFoundError(f"resume={str(resume)!r}: no such file")
        if resume.name != self.last.name:
            raise ValueError(
                f"resume={str(resume)!r}: a run goes on from its {self.last.name}; to start a new run from the weights "
                "of another checkpoint, give initial_checkpoint instead"
            )
        if resume.resolve() != self.last.resolve():
            raise ValueError(f"resume={str(resume)!r}: a run goes on in its own folder, not in {self.path}")

    def _files_of_others(self) -> list[str]:
        """Files that are there before the first checkpoint; only the recipe of a run that got no further is ours."""
        files = [path.name for path in (self.summary, self.best, self.hub) if path.exists()]
        files += sorted(path.name for path in self.path.glob("milestone-*.pth.tar"))
        if self.recipe.exists() and not self.recipe.read_bytes().startswith(_NOTE.encode()):
            files.append(self.recipe.name)
        return files

    def start(self, recipe: Recipe, in_memory: bool, processes: int) -> None:
        """Make the folder, remove what a killed run left half written, and write the recipe with how it was run."""
        self.path.mkdir(parents=True, exist_ok=True)
        for path in (self.last, self.best, self.summary, self.recipe):
            remove_leftovers(path)
        remove_leftovers(self.hub, FILES)
        how = f"in_memory: {in_memory}" + (f", processes: {processes}" if processes > 1 else "")
        note = f"{_NOTE}, {how}, timm {timm.__version__}, torch {torch.__version__}\n"
        settings = {key: value for key, value in recipe.settings.items() if key != "resume"}
        text = note + yaml.safe_dump(settings, sort_keys=False)
        write_atomically(self.recipe, lambda file: file.write(text.encode()))

    def record(self, run: TrainingSetup, settings: dict[str, Any], progress: Progress) -> None:
        """Let the first process write the state after an epoch, learning rate of the next one already set.

        Args:
            run: The run.
            settings: Everything that the result depends on; a resumed run must have the same.
            progress: With the epoch just done.
        """
        rng = run.processes.gather(get_rng_state(run.generator))
        if not run.processes.is_first:
            return
        save_checkpoint(
            self.last, run.task, run.optimizer, run.scaler,
            epoch=progress.epochs_done - 1, args=settings, rng=rng,
            metric=progress.metrics[run.args.eval_metric], best=progress.best, eval_metrics=progress.metrics,
            history=progress.history,
        )  # fmt: skip
        self._write_from_last(progress, run.args.save_epochs)

    def hub_is_of_last(self) -> bool:
        """Whether hub/ is there and was made after the last epoch of summary.csv, of which it holds a copy."""
        copy = self.hub / self.summary.name
        return copy.is_file() and copy.read_bytes() == self.summary.read_bytes()

    def resume(self, run: TrainingSetup, settings: dict[str, Any]) -> Progress:
        """Put a run back where its last.pth.tar left it, and make the files that follow it right again.

        Args:
            run: The run, set up as a new one.
            settings: See `record`.

        Raises:
            ValueError: The checkpoint is damaged, or not of this run.
        """
        state = load_checkpoint(
            self.last, run.task, run.optimizer, run.scaler,
            args=settings, defaults={key: row.default for key, row in stock_keys().items()} | {"processes": 1},
            may_differ=_MAY_DIFFER, rank=run.processes.rank, generator=run.generator,
        )  # fmt: skip
        history = state["history"] if "history" in state else self._read_summary(state["epoch"])
        progress = Progress(history, state["best"])
        if run.processes.is_first:
            self._write_from_last(progress, run.args.save_epochs)
        return progress

    def _write_from_last(self, progress: Progress, save_epochs: Sequence[int] | None) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            table = Path(temporary) / self.summary.name
            for row in progress.history:
                first = row["epoch"] == 0
                update_summary(row["epoch"], row["train"], row["eval"], str(table), row["lr"], write_header=first)
            write_atomically(self.summary, _copy_of(table))
        if progress.is_best:
            write_atomically(self.best, _copy_of(self.last))
        if progress.epochs_done in (save_epochs or ()):
            milestone = self.path / f"milestone-{progress.epochs_done}.pth.tar"  # timm's name, after so many epochs
            write_atomically(milestone, _copy_of(self.last))

    def _read_summary(self, epoch: int) -> list[dict[str, Any]]:
        """The rows up to `epoch`, for a checkpoint of a version that did not keep them."""
        try:
            with self.summary.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= epoch]
            history = [_row_from_text(row) for row in rows]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.summary} cannot be read, and {self.last} does not hold its rows") from error
        if [row["epoch"] for row in history] != list(range(epoch + 1)):
            raise ValueError(f"{self.summary} lacks epochs before {epoch}, and {self.last} does not hold them")
        return history


def _copy_of(path: Path) -> Callable[[Any], None]:
    def write(file: Any) -> None:
        with path.open("rb") as source:
            shutil.copyfileobj(source, file)

    return write


def _row_from_text(row: dict[str, str]) -> dict[str, Any]:
    def metrics(prefix: str) -> dict[str, Any]:
        values = {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}
        return {key: int(value) if value.isdecimal() else float(value) for key, value in values.items()}

    return {"epoch": int(row["epoch"]), "train": metrics("train_"), "eval": metrics("eval_"), "lr": float(row["lr"])}
