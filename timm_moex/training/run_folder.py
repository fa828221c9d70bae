"""The folder of a training run: which files it contains, when they are written, and how a run is resumed.

After every epoch, last.pth.tar is written first; it also contains the rows of summary.csv. Next come summary.csv,
model_best.pth.tar if the epoch is the best so far, milestone-N.pth.tar for epochs in `save_epochs`, and hub/ after the
last epoch. Each file is written atomically and can be rebuilt from last.pth.tar, so a run that is killed at any moment
can be resumed and ends with the same files.
"""

import csv
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from filelock import Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.utils import update_summary
from torch import nn

from ..hub.folder import FILES, README, unexpected_files
from ..utils.files import lock_of, remove_leftovers, write_atomically
from .build import TrainingSetup
from .checkpoint import get_rng_state, read_checkpoint, restore_checkpoint, save_checkpoint
from .datasets import label_names
from .evaluate import flat_metrics
from .recipe import Recipe, stock_keys

__all__ = ["Progress", "RunFolder"]

_NOTE = "# timm-moex train"


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
        """Add a finished epoch; the metric `key` chooses the best epoch, and the earlier epoch wins a tie."""
        epoch, value = self.epochs_done, metrics[key]
        if self.history:  # all rows share one header, so a run begun with an older version keeps its columns
            train_metrics = {name: train_metrics[name] for name in self.history[0]["train"] if name in train_metrics}
        self.history.append({"epoch": epoch, "train": train_metrics, "eval": metrics, "lr": lr})
        if not self.best or (value < self.best[key] if key == "loss" else value > self.best[key]):
            self.best = {"epoch": epoch, key: value}


class RunFolder:
    """A run's folder: last.pth.tar, model_best.pth.tar, summary.csv, recipe.yaml and hub/."""

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        self.last, self.best = self.path / "last.pth.tar", self.path / "model_best.pth.tar"
        self.summary, self.recipe, self.hub = (self.path / name for name in ("summary.csv", "recipe.yaml", "hub"))

    @contextmanager
    def locked(self, timeout: float = 0) -> Iterator[None]:
        """Lock the folder against other training runs; the operating system releases the lock if the process dies.

        The lock file is next to the folder, visible to everyone who can see the folder, and is removed at the end.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(lock_of(self.path.resolve(), timeout=timeout))
            except Timeout as error:
                raise FileExistsError(
                    f"another training run is writing to {self.path}; wait until it ends, or choose another --output"
                ) from error
            yield

    def check(self, resume: str | None) -> None:
        """Reject a folder whose files would be lost, and a checkpoint `resume` from another folder."""
        # A resumed run's own files are written again if they are damaged or missing
        foreign = [name for name in unexpected_files(self.hub) if not (resume and name in FILES)]
        if foreign:
            raise FileExistsError(
                f"{self.hub} contains {', '.join(foreign)}, which timm_moex did not write; choose another --output"
            )
        if resume:
            self._check_resume(Path(resume))
        elif self.last.exists():
            raise FileExistsError(
                f"{self.path} already contains a run; continue it with --resume {self.last}, or choose another --output"
            )
        elif there := self._files_of_others():
            raise FileExistsError(f"{self.path} already contains {', '.join(there)}; choose another --output")

    def _check_resume(self, resume: Path) -> None:
        if not resume.is_file():
            raise FileNotFoundError(f"resume={str(resume)!r}: no such file")
        if resume.name != self.last.name:
            raise ValueError(
                f"resume={str(resume)!r}: a run resumes only from its {self.last.name}; to start a new run from the "
                "weights of another checkpoint, set initial_checkpoint instead"
            )
        if resume.resolve() != self.last.resolve():
            raise ValueError(f"resume={str(resume)!r}: a run resumes only in its own folder, not in {self.path}")

    def _files_of_others(self) -> list[str]:
        """List unexpected files in a folder without a checkpoint, in which a run of ours leaves only recipe.yaml."""
        files = [path.name for path in (self.summary, self.best, self.hub) if path.exists()]
        files += sorted(path.name for path in self.path.glob("milestone-*.pth.tar"))
        if self.recipe.exists() and not self.recipe.read_bytes().startswith(_NOTE.encode()):
            files.append(self.recipe.name)
        return files

    def start(self, recipe: Recipe, processes: int) -> None:
        """Create the folder, remove partial files of a killed run, and write a recipe that repeats this run."""
        self.path.mkdir(parents=True, exist_ok=True)
        for path in (self.last, self.best, self.summary, self.recipe):
            remove_leftovers(path)
        with lock_of(self.hub.resolve()):  # this also removes the lock file of a killed process
            remove_leftovers(self.hub, FILES)
        how = f"processes: {processes}, " if processes > 1 else ""
        note = f"{_NOTE}, {how}timm {timm.__version__}, torch {torch.__version__}\n"
        settings = {key: value for key, value in recipe.effective_settings().items() if key != "resume"}
        if ours := [key for key in settings if stock_keys()[key].trainer == "built-in"]:
            note += f"# Read only by timm-moex train, and ignored by timm's train.py --config: {', '.join(ours)}\n"
        text = note + yaml.safe_dump(settings, sort_keys=False)
        write_atomically(self.recipe, lambda file: file.write(text.encode()))

    def record(self, run: TrainingSetup, progress: Progress) -> None:
        """Write the state after an epoch, from the first process, with the next learning rate already set."""
        rng = run.processes.gather(get_rng_state(run.generator))
        if not run.processes.is_first:
            return
        metrics = progress.metrics
        save_checkpoint(
            self.last,
            run,
            rng,
            epoch=progress.epochs_done - 1,
            metric=metrics[run.args.eval_metric],
            best=progress.best,
            eval_metrics=metrics,
            history=progress.history,
            data=_data_of(run),
        )
        self._write_from_last(progress, run.args.save_epochs)

    def hub_is_complete(self, model: nn.Module) -> bool:
        """Return whether hub/ is complete and contains the weights of `model` and the current summary.csv."""
        try:
            json.loads((self.hub / "config.json").read_text(encoding="utf-8"))
            weights = load_file(self.hub / "model.safetensors")
            is_of_last = (self.hub / self.summary.name).read_bytes() == self.summary.read_bytes()
        except (OSError, ValueError, SafetensorError):
            return False
        state = model.state_dict()
        equal = weights.keys() == state.keys() and all(weights[key].equal(state[key].cpu()) for key in state)
        return equal and is_of_last and (self.hub / README).is_file()

    def clear_damaged_hub(self) -> None:
        """Remove a damaged hub/, which `save_folder` would refuse to replace."""
        foreign = unexpected_files(self.hub)
        if foreign and set(foreign) <= set(FILES):
            shutil.rmtree(self.hub)

    def resume(self, run: TrainingSetup) -> tuple[Progress, list[str]]:
        """Restore a run from its last.pth.tar, and rewrite the files that depend on it.

        Returns:
            The run's progress, and lines for the user about what has changed.
        """
        state = read_checkpoint(self.last)
        notes = _compare_data(state.get("data"), _data_of(run))
        restore_checkpoint(state, self.last, run)
        history = state["history"] if "history" in state else _read_summary(self.summary, state["epoch"])
        progress = Progress(history, state["best"])
        if run.processes.is_first:
            self._write_from_last(progress, run.args.save_epochs)
            notes += self._look_at_best(progress)
        return progress, notes

    def _look_at_best(self, progress: Progress) -> list[str]:
        epoch = progress.best["epoch"]
        try:
            if read_checkpoint(self.best)["epoch"] == epoch:
                return []
            why = "belongs to another epoch"
        except ValueError:
            why = "is damaged" if self.best.exists() else "is missing"
        return [f"{self.best} {why} and cannot be rebuilt: the best epoch, {epoch} (counted from 0), is not the last"]

    def _write_from_last(self, progress: Progress, save_epochs: Sequence[int] | None) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            table = Path(temporary) / self.summary.name
            for row in progress.history:
                first, metrics = row["epoch"] == 0, flat_metrics(row["eval"])
                update_summary(row["epoch"], row["train"], metrics, str(table), row["lr"], write_header=first)
            _copy(table, self.summary)
        if progress.is_best:
            _copy(self.last, self.best)
        if progress.epochs_done in (save_epochs or ()):
            _copy(self.last, self.path / f"milestone-{progress.epochs_done}.pth.tar")  # timm's name; epochs from 1


def _data_of(run: TrainingSetup) -> dict[str, Any]:
    """Return the properties of the data that a resumed run compares."""
    sizes = {"training": len(run.train_loader.dataset), "evaluation": len(run.eval_loader.dataset)}
    return {"images": sizes, "classes": label_names(run.train_loader.dataset)}


def _compare_data(was: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    """Describe images that were added or removed since a run began; raise an error if the classes changed."""
    if was is None:  # a checkpoint of an older version
        return []
    if was["classes"] != now["classes"]:
        gone = [name for name in was["classes"] if name not in now["classes"]]
        new = [name for name in now["classes"] if name not in was["classes"]]
        parts = [f"{what} {', '.join(names[:10])}" for what, names in (("removed", gone), ("added", new)) if names]
        raise ValueError(
            f"the classes have changed since this run began: {' and '.join(parts) or 'their order is different'}; "
            "restore the folders, or start a new run"
        )
    return [
        f"the {part} data now have {now['images'][part]} images; this run began with {count}"
        for part, count in was["images"].items()
        if now["images"][part] != count
    ]


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as file:
        write_atomically(target, lambda new: shutil.copyfileobj(file, new))


def _read_summary(path: Path, epoch: int) -> list[dict[str, Any]]:
    """Read the history up to `epoch` from summary.csv, for a checkpoint of a version that did not store it."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            history = [_row_from_text(row) for row in csv.DictReader(file) if int(row["epoch"]) <= epoch]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read, and the checkpoint does not contain its rows") from error
    if [row["epoch"] for row in history] != list(range(epoch + 1)):
        raise ValueError(f"{path} lacks epochs up to {epoch}, and the checkpoint does not contain them")
    return history


def _row_from_text(row: dict[str, str]) -> dict[str, Any]:
    def metrics(prefix: str) -> dict[str, Any]:
        values = {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}
        return {key: int(value) if value.isdecimal() else float(value) for key, value in values.items()}

    return {"epoch": int(row["epoch"]), "train": metrics("train_"), "eval": metrics("eval_"), "lr": float(row["lr"])}
