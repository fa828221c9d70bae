"""Start a run: complete the recipe, compare it between processes, set the run up, and open its folder."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch

from .build import TrainingSetup, set_up_training
from .datasets import ignored_files, label_names, open_split
from .distributed import Processes
from .recipe import Recipe
from .run_folder import Progress, RunFolder
from .trackers import check_trackers, open_trackers

__all__ = ["find_device", "ignore_report", "resolve_defaults", "start_run"]

# Settings that may differ between processes on several machines
_OF_THE_MACHINE = {"data_dir", "class_map", "initial_checkpoint", "pretrained_path", "output", "resume"}
_OF_THE_MACHINE |= {"workers", "pin_mem"}
_LARGEST_INITIAL_SHARE = 0.05


def find_device(recipe: Recipe) -> str:
    """Return the recipe's device; by default a GPU if there is one, whereas train.py would require a GPU."""
    return recipe.settings.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")


def resolve_defaults(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """Complete a recipe with its device and number of classes; also return lines for the user about both.

    Without `device`, training uses the result of `find_device`. Without `num_classes`, the model gets a classifier for
    the classes of the data. (train.py would keep the classes of the weights, or use 1,000.)
    """
    args, notes = recipe.arguments(), []
    found: dict[str, Any] = {}
    if "device" not in recipe.settings and find_device(recipe) == "cpu":
        found["device"] = "cpu"
        notes.append("device: cpu, because no CUDA device was found")
        if args.amp:
            notes.append("amp: true is slow on a CPU without half precision; turn it off with --set amp=false")
    if args.num_classes is None:
        names = label_names(open_split(args, args.train_split, unreadable="replace"))
        if names:
            found["num_classes"] = len(names)
            some = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
            notes.append(f"num_classes: {len(names)}, the classes of the data ({some})")
    return recipe.with_defaults(**found), notes


def start_run(
    recipe: Recipe, folder: str | Path | None, processes: Processes, stack: ExitStack, log: Callable[[str], None]
) -> tuple[Recipe, RunFolder, TrainingSetup, Progress, Callable[[Any], None]]:
    """Set up a run, compare it between processes, and keep its folder open until `stack` closes.

    Returns:
        The complete recipe, the run's folder, the run, its progress, and a function to call with each epoch's row.
    """
    recipe.arguments()  # before the data are opened
    with processes.main_process_first():  # it may download the data
        recipe, notes = resolve_defaults(recipe)
    args = recipe.arguments()
    processes.agree({key: value for key, value in vars(args).items() if key not in _OF_THE_MACHINE})
    check_trackers(args)
    place = RunFolder(folder or Path(args.output or "output") / (args.experiment or recipe.name))
    if args.resume == "auto":  # for a job that is restarted with the same command
        args.resume = str(place.last) if place.last.is_file() else ""
    if processes.is_first:
        stack.enter_context(place.locked())
    place.check(args.resume)
    run = stack.enter_context(closing(set_up_training(args, processes)))
    state, found = place.resume(run) if args.resume else (Progress(), [])
    processes.agree({"epochs done": state.epochs_done})
    track: Callable[[Any], None] = ignore_report
    if processes.is_first:
        place.start(recipe, processes.count)
        track = stack.enter_context(open_trackers(run.args, place.path, epochs_done=state.epochs_done))
    ignored = dict.fromkeys(ignored_files(loader.dataset) for loader in (run.train_loader, run.eval_loader))
    for line in [*notes, *found, *filter(None, ignored)]:
        log(line)
    if run.initial_share > _LARGEST_INITIAL_SHARE:
        log(
            f"model_ema_decay: {args.model_ema_decay}: at the end, the EMA, which is evaluated and saved, will still "
            f"contain {run.initial_share:.0%} of the initial weights; set model_ema_warmup: true, or lower the decay"
        )
    return recipe, place, run, state, track


def ignore_report(_: Any) -> None:
    """Ignore a report; used in all processes but the first."""
