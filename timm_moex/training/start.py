"""Start a run: complete the recipe, compare it between processes, set the run up, and open its folder."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .build import TrainingSetup, set_up_training
from .datasets import ignored_files
from .distributed import Processes
from .keys import explain_idle
from .progress import Progress
from .recipe import Recipe
from .resolve_defaults import resolve_defaults
from .run_folder import RunFolder
from .trackers import check_trackers, open_trackers

__all__ = ["StartedRun", "ignore_report", "start_run"]

# Settings that may differ between processes on several machines
_OF_THE_MACHINE = {"data_dir", "class_map", "initial_checkpoint", "pretrained_path", "output", "resume"}
_OF_THE_MACHINE |= {"workers", "pin_mem"}
_LARGEST_INITIAL_SHARE = 0.05


@dataclass
class StartedRun:
    """A run that has its folder, with everything that its epochs need."""

    recipe: Recipe
    settings: dict[str, Any]
    place: RunFolder
    run: TrainingSetup
    state: Progress
    track: Callable[[Any], None]


def start_run(
    recipe: Recipe, folder: str | Path | None, processes: Processes, stack: ExitStack, log: Callable[[str], None]
) -> StartedRun:
    """Set up a run, compare it between processes, and keep its folder open until `stack` closes."""
    recipe.arguments()  # before the data are opened
    with processes.main_process_first():  # it may download the data
        recipe, notes = resolve_defaults(recipe)
    args = recipe.arguments()
    processes.agree({key: value for key, value in vars(args).items() if key not in _OF_THE_MACHINE})
    check_trackers(args)
    place = RunFolder(Path(folder or Path(args.output or "output") / (args.experiment or recipe.name)).expanduser())
    if args.resume == "auto":  # for a job that is restarted with the same command
        args.resume = str(place.last) if place.last.is_file() else ""
    if processes.is_first:
        stack.enter_context(place.locked())
    place.check(args.resume)
    run = stack.enter_context(closing(set_up_training(args, processes)))
    idle = [key for key in vars(args) if explain_idle(key, vars(args))]
    settings = {key: value for key, value in vars(run.args).items() if key not in ("resume", *idle)}
    settings["processes"] = processes.count
    state, found = place.resume(run, settings) if args.resume else (Progress(), [])
    processes.agree({"epochs done": state.epochs_done})
    track: Callable[[Any], None] = ignore_report
    if processes.is_first:
        place.start(recipe, processes.count)
        track = stack.enter_context(open_trackers(run.args, place.path, epochs_done=state.epochs_done))
    for line in [*notes, *found, *_ignored_notes(run), *_ema_note(run)]:
        log(line)
    return StartedRun(recipe, settings, place, run, state, track)


def ignore_report(_: Any) -> None:
    """Ignore a report; used in all processes but the first."""


def _ignored_notes(run: TrainingSetup) -> list[str]:
    lines = dict.fromkeys(ignored_files(loader.dataset) for loader in (run.train_loader, run.eval_loader))
    return [line for line in lines if line]


def _ema_note(run: TrainingSetup) -> list[str]:
    if run.initial_share <= _LARGEST_INITIAL_SHARE:
        return []
    return [
        f"model_ema_decay: {run.args.model_ema_decay}: at the end, the EMA, which is evaluated and saved, will still "
        f"hold {run.initial_share:.0%} of the initial weights; set model_ema_warmup: true, or lower the decay"
    ]
