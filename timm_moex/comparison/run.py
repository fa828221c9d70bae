"""A run of a comparison: a folder of the built-in trainer with a result.json, written once after the last epoch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..training.recipe import Recipe
from ..utils.files import write_atomically
from ..utils.messages import short_repr

__all__ = ["NOT_SETTINGS", "Run", "comparable"]

# Paths, reporting and speed, which do not change the trained model; and the seed, which tells runs apart by itself
NOT_SETTINGS = frozenset(
    {"data_dir", "pretrained_path", "initial_checkpoint", "device", "workers", "pin_mem", "output", "experiment"}
    | {"log_interval", "log_wandb", "wandb_project", "wandb_tags", "log_tensorboard", "resume", "save_epochs", "seed"}
)


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the settings that a run's result depends on, without the seed.

    Example:
        >>> comparable({"epochs": 5, "workers": 2, "seed": 7})
        {'epochs': 5}
    """
    return {key: value for key, value in settings.items() if key not in NOT_SETTINGS}


@dataclass(frozen=True, eq=False)
class Run:
    """A training to do, or done.

    Attributes:
        recipe: The whole recipe, including data_dir, device and seed.
        folder: Where it is written.
        test_split: Name of a split to evaluate once, after the last epoch; "" for none.
        test_held_out: Whether to do so with the group that the recipe holds out.
    """

    recipe: Recipe
    folder: Path
    test_split: str = ""
    test_held_out: bool = False

    @property
    def has_test(self) -> bool:
        """Whether images are to be evaluated that played no part in the training."""
        return bool(self.test_split) or self.test_held_out

    @property
    def epochs(self) -> int:
        """Number of epochs, as far as the recipe alone tells."""
        args = self.recipe.arguments()
        return args.stop_epoch or args.epochs + args.cooldown_epochs

    @property
    def epochs_done(self) -> int:
        """Epochs that a killed run need not repeat."""
        summary = self.folder / "summary.csv"
        return len(summary.read_text(encoding="utf-8").splitlines()) - 1 if summary.is_file() else 0

    @property
    def result(self) -> dict[str, Any] | None:
        """Content of result.json; None before the last epoch."""
        path = self.folder / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    @property
    def is_finished(self) -> bool:
        """Whether it is trained and, if it has a test, tested."""
        result = self.result
        return result is not None and (not self.has_test or "test" in result)

    def check(self) -> None:
        """Refuse a folder with the result of another recipe.

        Raises:
            ValueError: The settings differ; the message names the first.
        """
        result = self.result
        if result is None:
            return
        ours, theirs = comparable(self.recipe.settings), result["settings"]
        for key in ours | theirs:
            if ours.get(key) != theirs.get(key):
                raise ValueError(
                    f"{self.folder} was trained with {key}: {short_repr(theirs.get(key))}, now it is "
                    f"{short_repr(ours.get(key))}; choose another --output or another name for the method"
                )

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json whole or not at all."""
        content = json.dumps(result, indent=1).encode()
        write_atomically(self.folder / "result.json", lambda file: file.write(content))
