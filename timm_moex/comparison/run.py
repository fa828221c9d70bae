"""A run of a comparison: a folder of the built-in trainer, plus result.json, written after the last epoch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..training.recipe import Recipe
from ..utils.files import write_atomically
from ..utils.messages import short_repr

__all__ = ["NOT_SETTINGS", "Run", "check_equal", "comparable"]

# Paths, reporting and speed do not change the trained model; the seed distinguishes the runs of a method
NOT_SETTINGS = frozenset(
    {"data_dir", "pretrained_path", "initial_checkpoint", "device", "workers", "pin_mem", "output", "experiment"}
    | {"log_interval", "log_wandb", "wandb_project", "wandb_tags", "log_tensorboard", "resume", "save_epochs", "seed"}
)


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Keep only the settings that a run's result depends on, without the seed."""
    return {key: value for key, value in settings.items() if key not in NOT_SETTINGS}


def check_equal(settings: Mapping[str, Any], old: Mapping[str, Any], what: str, remedy: str) -> None:
    """Raise an error about the first setting that differs from the old ones."""
    for key in comparable(settings) | comparable(old):
        if settings.get(key) != old.get(key):
            was, now = short_repr(old.get(key)), short_repr(settings.get(key))
            raise ValueError(f"{what} with {key}: {was}, but now it is {now}; choose another {remedy}")


@dataclass(frozen=True, eq=False)
class Run:
    """A training run of a comparison, finished or not.

    Attributes:
        recipe: The complete recipe, including data_dir, device and seed.
        folder: Output folder.
        method: Name of the method.
        group: The group that the recipe holds out, on which the run is evaluated once, after the last epoch; or "".
        test_split: Name of a split to evaluate once, after the last epoch; "" to skip.
    """

    recipe: Recipe
    folder: Path
    method: str = ""
    group: str = ""
    test_split: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.method, self.group, f"seed {self.seed}")))

    @property
    def seed(self) -> int:
        return self.recipe.settings["seed"]

    @property
    def has_test(self) -> bool:
        """Whether the run is tested on images that are not used during training."""
        return bool(self.test_split or self.group)

    @property
    def epochs(self) -> int:
        """Number of epochs, estimated from the recipe without building the schedule."""
        args = self.recipe.arguments()
        return args.stop_epoch or args.epochs + args.cooldown_epochs

    @property
    def epochs_done(self) -> int:
        """Number of epochs that a killed run need not repeat."""
        summary = self.folder / "summary.csv"
        return len(summary.read_text(encoding="utf-8").splitlines()) - 1 if summary.is_file() else 0

    @property
    def result(self) -> dict[str, Any] | None:
        """Content of result.json; None before the end of the last epoch."""
        path = self.folder / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    @property
    def is_finished(self) -> bool:
        """Whether the run is trained and, if it has a test, tested."""
        result = self.result
        return result is not None and (not self.has_test or "test" in result)

    def check(self) -> None:
        """Refuse a folder that contains the result of another recipe."""
        if (result := self.result) is not None:
            what, remedy = f"{self.folder} was trained", "--output, or another name for the method"
            check_equal(self.recipe.settings, result["settings"], what, remedy)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json atomically."""
        content = json.dumps(result, indent=1).encode()
        write_atomically(self.folder / "result.json", lambda file: file.write(content))
