"""The built-in trainer: what timm's train.py does, as one loop that can be read from top to bottom.

Under torchrun or SLURM every process runs it on its share of the data, and the first one writes and reports.
"""

import argparse
import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.utils import dispatch_clip_grad, unwrap_model
from torch import Tensor, nn
from tqdm import tqdm

from ..hub.folder import save_folder
from ..task.task import MoExTask
from .datasets import label_names, unreadable_files
from .evaluate import combine_metrics, evaluate, first_samples
from .processes import join_processes
from .recipe import Recipe
from .run_folder import Progress, RunFolder
from .setup import TrainingSetup, set_up_training
from .trackers import check_trackers, open_trackers

__all__ = ["Result", "train"]


@dataclass
class Result:
    """What a training run leaves.

    Attributes:
        model: The trained model (its EMA where the recipe keeps one), as after the last epoch.
        metrics: Evaluation of the last epoch: loss, top1, top5, count.
        best: The best epoch's `epoch` and value of the recipe's eval_metric; for information, not the result.
        folder: Holds last.pth.tar, model_best.pth.tar, summary.csv, recipe.yaml and hub/, which timm loads.
    """

    model: nn.Module
    metrics: dict[str, Any]
    best: dict[str, Any]
    folder: Path


def train(
    recipe: Recipe,
    folder: str | Path | None = None,
    *,
    in_memory: bool = False,
    pad: int = 4,
    skip_unreadable: bool = False,
    tensorboard: bool = False,
    log: Callable[[str], None] = print,
    progress: bool = True,
) -> Result:
    """Train a model by a recipe.

    Where torchrun or SLURM started several processes, each trains on its share of every step, with permutations of its
    own; `batch_size` is that of each process.

    The last epoch is the result; the best one is kept as well. `stop_epoch` ends a run before its schedule does, and a
    resumed run can go on from there. With `resume` in the recipe a run goes on where its last.pth.tar left it, on the
    CPU bit for bit, and with "auto" if there is one; of a finished run the files that are missing are written.

    Args:
        recipe: What to train, see `load_recipe`.
        folder: Where to write; default `output`/`experiment` of the recipe, else output/<recipe's name>.
        in_memory: Keep the whole dataset on the device, with the augmentation of `InMemoryLoader`.
        pad: Border of its crop, in pixels.
        skip_unreadable: Leave out evaluation images that cannot be read, instead of an error.
        tensorboard: Write TensorBoard's events into the folder's tensorboard/.
        log: Gets one line per epoch.
        progress: Show a bar where stderr is a terminal.

    Raises:
        RecipeError: The recipe asks for something that is not there.
        DataError: The recipe asks for data that are not there.
        FileExistsError: `folder` holds a run already and `resume` is not given, it holds files that would be lost, or
            another training writes to it.
        ValueError: `resume` is not the folder's own last.pth.tar, or is damaged, or of other settings.
        FloatingPointError: The loss is not finite; the checkpoint of the epoch before stays.
        ConnectionError: Another process of this training has ended, see `join_processes`.
        ImportError: wandb, which `log_wandb` needs, or TensorBoard is not installed.
    """
    args = recipe.arguments()
    check_trackers(args, tensorboard)
    place = RunFolder(folder or Path(args.output or "output") / (args.experiment or recipe.name))
    if args.resume == "auto":  # a job that is started again and again by the same command
        args.resume = str(place.last) if place.last.is_file() else ""
    with join_processes(args.device) as processes, place.locked() if processes.is_first else nullcontext():
        place.check(args.resume)
        with closing(set_up_training(args, pad if in_memory else None, skip_unreadable, processes)) as run:
            settings = {key: value for key, value in vars(run.args).items() if key != "resume"}
            settings |= {"in_memory": in_memory, "pad": pad if in_memory else None, "processes": processes.count}
            state = place.resume(run, settings) if args.resume else Progress()
            if processes.is_first:
                place.start(recipe, in_memory, processes.count)
                tracking: Any = open_trackers(
                    run.args, place.path, tensorboard=tensorboard, epochs_done=state.epochs_done
                )
            else:
                tracking, log, progress = nullcontext(_ignore), _ignore, False
            with tracking as track:
                while state.epochs_done < run.stops_after:
                    began = time.time()
                    _run_epoch(run, state, show_bar=progress)
                    place.record(run, settings, state)
                    track(state.history[-1])
                    _log_epoch(run, state, time.time() - began, log)
            if processes.is_first and not place.hub_is_of_last():
                _write_hub(place, recipe, run, state)
    return Result(unwrap_model(run.eval_model), state.metrics, state.best, place.path)


def _ignore(_: Any) -> None:
    """What the other processes do in place of reporting."""


def _run_epoch(run: TrainingSetup, state: Progress, show_bar: bool) -> None:
    """Train and evaluate an epoch, set the learning rate of the next one, and add it to `state`."""
    epoch, key = state.epochs_done, run.args.eval_metric
    train_metrics = _train_one_epoch(run, epoch, show_bar)
    lr = run.lr
    metrics = _evaluate(run, epoch)
    run.scheduler.step(epoch + 1, metrics[key])
    state.add(train_metrics, metrics, lr, key)


def _log_epoch(run: TrainingSetup, state: Progress, seconds: float, log: Callable[[str], None]) -> None:
    row = state.history[-1]
    log(
        f"epoch {state.epochs_done}/{run.epochs}  train loss {row['train']['loss']:.4f}  "
        f"eval loss {row['eval']['loss']:.4f}  top-1 {row['eval']['top1']:.2f}  lr {row['lr']:.3g}  {seconds:.1f} s"
    )
    for part, loader in (("training", run.train_loader), ("evaluation", run.eval_loader)):
        if unreadable := sorted(set().union(*run.processes.gather(unreadable_files(loader.dataset)))):
            log(f"{len(unreadable)} {part} images could not be read and were left out, such as {unreadable[0]}")


def _write_hub(folder: RunFolder, recipe: Recipe, run: TrainingSetup, state: Progress) -> None:
    save_folder(
        unwrap_model(run.eval_model), folder.hub, run.data_config, label_names=label_names(run.eval_loader.dataset),
        model_args=_architecture_args(run.args), summary=folder.summary, card=_card(recipe, run, state),
    )  # fmt: skip


def _train_one_epoch(run: TrainingSetup, epoch: int, show_bar: bool) -> dict[str, float]:
    """One pass over the training set; returns the mean loss and, for a MoEx model, the share of exchanged batches."""
    args, task, optimizer = run.args, run.task, run.optimizer
    run.model.train()
    run.set_epoch(epoch)
    steps, updates = len(run.train_loader), epoch * run.updates_per_epoch
    last_group = steps - steps % args.grad_accum_steps  # the steps from here on make a shorter group
    losses, exchanged = _Losses(epoch), []
    optimizer.zero_grad()
    bar = tqdm(run.train_loader, f"epoch {epoch + 1}/{run.epochs}", leave=False, disable=None if show_bar else True)
    for step, batch in enumerate(bar):
        images, target = run.prepare(*batch)
        group = args.grad_accum_steps if step < last_group else steps - last_group
        update = step + 1 == steps or (step + 1) % args.grad_accum_steps == 0
        with nullcontext() if update else task.no_sync():
            with torch.autocast(run.device.type, dtype=run.amp_dtype, enabled=run.amp_dtype is not None):
                result = task(images, target)
            _backward(run, result["loss"] / group, update)
        losses.add(step, result["loss"], len(images), run.lr)
        exchanged += [result["exchanged"]] if "exchanged" in result else []
        if update:
            updates += 1
            optimizer.zero_grad()
            task.update_ema(step=updates)
            run.scheduler.step_update(num_updates=updates)
        if (step + 1) % args.log_interval == 0 or step + 1 == steps:
            losses.look()
            bar.set_postfix(loss=f"{losses.mean:.4f}", lr=f"{run.lr:.3g}")
    if hasattr(optimizer, "sync_lookahead"):
        optimizer.sync_lookahead()
    parts = run.processes.gather((losses.total, losses.count, sum(exchanged), len(exchanged)))
    total, count, exchanges, batches = (sum(part) for part in zip(*parts))
    return {"loss": total / count} | ({"exchanged": exchanges / batches} if batches else {})


def _backward(run: TrainingSetup, loss: Tensor, update: bool) -> None:
    args, create_graph = run.args, getattr(run.optimizer, "is_second_order", False)
    parameters = None
    if args.clip_grad is not None:
        parameters = run.task.get_clip_parameters(exclude_head="agc" in args.clip_mode)
    if run.scaler is not None:
        clip = dict(clip_grad=args.clip_grad, clip_mode=args.clip_mode, parameters=parameters)
        run.scaler(loss, run.optimizer, create_graph=create_graph, need_update=update, **clip)
        return
    loss.backward(create_graph=create_graph)
    if update:
        if args.clip_grad is not None:
            dispatch_clip_grad(parameters, args.clip_grad, mode=args.clip_mode)
        run.optimizer.step()


class _Losses:
    """The losses of an epoch, read from the device only now and then: reading each one would make it wait."""

    def __init__(self, epoch: int):
        self.epoch, self.total, self.count = epoch, 0.0, 0
        self.unread: list[tuple[int, Tensor, int, float]] = []

    def add(self, step: int, loss: Tensor, size: int, lr: float) -> None:
        self.unread.append((step, loss.detach(), size, lr))

    def look(self) -> None:
        values = torch.stack([loss for _, loss, _, _ in self.unread]).tolist()
        for (step, _, size, lr), value in zip(self.unread, values):
            if not math.isfinite(value):
                what = f"loss is {value} at epoch {self.epoch}, step {step}"
                raise FloatingPointError(_not_finite(what, self.epoch, lr))
            self.total, self.count = self.total + value * size, self.count + size
        self.unread = []

    @property
    def mean(self) -> float:
        return self.total / self.count


def _not_finite(what: str, epoch: int, lr: float) -> str:
    kept = f"the checkpoint of epoch {epoch - 1} stays" if epoch else "no checkpoint was written yet"
    return f"{what} (counted from 0), lr {lr:g}; {kept}. A lower lr, warm-up or clip_grad may help"


def _evaluate(run: TrainingSetup, epoch: int) -> dict[str, Any]:
    run.equalise_batch_norms()
    loader: Any = run.eval_loader
    if run.processes.count > 1:
        loader = first_samples(loader, run.processes.share_of(len(loader.dataset)))
    metrics = evaluate(
        run.eval_model, loader, run.device,
        amp_dtype=run.amp_dtype, dtype=run.dtype, channels_last=run.args.channels_last,
    )  # fmt: skip
    metrics = combine_metrics(run.processes.gather(metrics))
    if not math.isfinite(metrics["loss"]):
        what = f"evaluation loss is {metrics['loss']} after epoch {epoch}"
        raise FloatingPointError(_not_finite(what, epoch, run.lr))
    return metrics


def _architecture_args(args: argparse.Namespace) -> dict[str, Any]:
    """What the model must be built with again to compute the same."""
    chosen = {"global_pool": args.gp, "bn_eps": args.bn_eps}
    return args.model_kwargs | {key: value for key, value in chosen.items() if value is not None}


def _card(recipe: Recipe, run: TrainingSetup, state: Progress) -> dict[str, Any]:
    metrics = state.metrics
    return {
        "dataset": recipe.settings.get("dataset", ""),
        "split": run.args.val_split,
        "recipe": recipe.settings,
        "origin": None if isinstance(run.task, MoExTask) else "Trained by timm_moex, without an exchange of moments.",
        "top1": {"value": round(metrics["top1"], 2)},
        "seeds": [run.args.seed],
        "device": str(run.device) if run.processes.count == 1 else f"{run.processes.count} x {run.device.type}",
        "results": f"top-1 {metrics['top1']:.2f}, top-5 {metrics['top5']:.2f} on {metrics['count']} images, "
        f"after epoch {state.epochs_done} of {run.epochs}",
    }
