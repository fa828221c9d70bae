"""The built-in trainer: timm's train.py as a single loop that reads from top to bottom.

With torchrun or SLURM, every process runs the loop on its share of the data, and the first process writes and reports.
"""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.utils import dispatch_clip_grad, unwrap_model
from torch import Tensor, nn
from tqdm import tqdm

from ..hub.folder import save_folder
from ..task.task import MoExTask
from ..utils.messages import in_words, say
from .build import TrainingSetup
from .datasets import group_names, label_names, unreadable_files
from .distributed import join_processes
from .evaluate import evaluate, first_samples
from .recipe import Recipe
from .run_folder import Progress, RunFolder
from .start import find_device, ignore_report, start_run

__all__ = ["Result", "train"]


@dataclass
class Result:
    """The result of a training run.

    Attributes:
        model: The trained model after the last epoch, or its EMA if the recipe uses one.
        metrics: Evaluation of the last epoch: loss, top1, top5, count.
        best: `epoch` of the best epoch and its value of the recipe's eval_metric; informational, not the result.
        folder: Contains last.pth.tar, model_best.pth.tar, summary.csv, recipe.yaml and hub/, which timm can load.
    """

    model: nn.Module
    metrics: dict[str, Any]
    best: dict[str, Any]
    folder: Path


def train(
    recipe: Recipe,
    folder: str | Path | None = None,
    *,
    log: Callable[[str], None] = say,
    progress: bool = True,
    **settings: Any,
) -> Result:
    """Train a model with a recipe.

    If torchrun or SLURM started several processes, each trains on its share of every step, with its own permutations;
    `batch_size` is per process.

    The last epoch is the result; the best epoch is saved as well. `stop_epoch` ends a run before its schedule does, and
    the run can be resumed from there. With `resume` in the recipe, a run continues from its last.pth.tar, bit for bit
    on the CPU; with "auto", only if that file exists. Resuming a finished run writes any files that are missing.

    Args:
        recipe: The recipe to train, see `load_recipe`. Missing settings are filled in, see `resolve_defaults`.
        folder: Output folder; default: `output`/`experiment` of the recipe, otherwise output/<recipe's name>.
        log: Called with each line: settings filled in, one per epoch, and the time left as estimated after one epoch.
        progress: Show a progress bar if stderr is a terminal; otherwise log a line every minute.
        **settings: Keys of the recipe to replace, such as `in_memory=True`, see `Recipe.override`.
    """
    recipe = recipe.override(**settings)
    with join_processes(find_device(recipe)) as processes, ExitStack() as stack:
        if not processes.is_first:
            log, progress = ignore_report, False
        with processes.together():
            recipe, place, run, state, track = start_run(recipe, folder, processes, stack, log)
        first = state.epochs_done
        while state.epochs_done < run.stops_after:
            began, epoch = time.monotonic(), state.epochs_done
            train_metrics = _train_one_epoch(run, epoch, progress, log)
            lr, metrics = run.lr, _evaluate(run, epoch)
            run.scheduler.step(epoch + 1, metrics[run.args.eval_metric])
            state.add(train_metrics, metrics, lr, run.args.eval_metric)
            place.record(run, state)
            track(state.history[-1])
            seconds, left = time.monotonic() - began, run.stops_after - state.epochs_done
            _log_epoch(run, state, seconds, log)
            if left and state.epochs_done == first + 1:
                log(f"about {in_words(left * seconds)} left for {left} more epoch{'s' if left > 1 else ''}")
        if processes.is_first and not place.hub_is_complete(unwrap_model(run.eval_model)):
            _write_hub(place, recipe, run, state)
    return Result(unwrap_model(run.eval_model), state.metrics, state.best, place.path)


def _log_epoch(run: TrainingSetup, state: Progress, seconds: float, log: Callable[[str], None]) -> None:
    row = state.history[-1]
    train, metrics = row["train"], row["eval"]
    own = train.get("loss_own", train["loss"])
    log(
        f"epoch {state.epochs_done}/{run.epochs}  train loss {train['loss']:.4f}"
        + (f" (own labels {own:.4f})" if abs(own - train["loss"]) > 5e-5 else "")
        + f"  eval loss {metrics['loss']:.4f}  top-1 {metrics['top1']:.2f}"
        + (f"  exchanged {train['exchanged']:.0%}" if "exchanged" in train else "")
        + f"  lr {row['lr']:.3g}  {seconds:.1f} s"
    )
    parts = (("training", run.train_loader, "replaced by others"), ("evaluation", run.eval_loader, "left out"))
    for part, loader, instead in parts:
        if unreadable := sorted(set().union(*run.processes.gather(unreadable_files(loader.dataset)))):
            log(f"{len(unreadable)} {part} images could not be read and were {instead}, such as {unreadable[0]}")


def _write_hub(folder: RunFolder, recipe: Recipe, run: TrainingSetup, state: Progress) -> None:
    folder.clear_damaged_hub()
    chosen = {"global_pool": run.args.gp, "bn_eps": run.args.bn_eps}  # needed to rebuild the model
    model_args = run.args.model_kwargs | {key: value for key, value in chosen.items() if value is not None}
    save_folder(
        unwrap_model(run.eval_model),
        folder.hub,
        run.data_config,
        label_names=label_names(run.train_loader.dataset),
        model_args=model_args,
        summary=folder.summary,
        card=_card(recipe, run, state),
    )


def _train_one_epoch(run: TrainingSetup, epoch: int, show_bar: bool, log: Callable[[str], None]) -> dict[str, float]:
    """Train for one pass over the training set.

    Returns:
        The mean `loss`; `loss_own`, the mean cross-entropy on each image's own label, which makes methods comparable
        whether or not they mix or smooth labels; and for a MoEx model `exchanged`, the share of exchanged batches.
    """
    args, task, optimizer = run.args, run.task, run.optimizer
    run.model.train()
    run.set_epoch(epoch)
    steps, updates = len(run.train_loader), epoch * run.updates_per_epoch
    last_group = steps - steps % args.grad_accum_steps  # the steps from here on form a shorter group
    losses, exchanged, logged = _Losses(epoch), [], time.monotonic()
    optimizer.zero_grad()
    bar = tqdm(run.train_loader, f"epoch {epoch + 1}/{run.epochs}", leave=False, disable=None if show_bar else True)
    for step, batch in enumerate(bar):
        images, target, groups = run.prepare(*batch)
        group = args.grad_accum_steps if step < last_group else steps - last_group
        update = step + 1 == steps or (step + 1) % args.grad_accum_steps == 0
        with nullcontext() if update else task.no_sync():
            with torch.autocast(run.device.type, dtype=run.amp_dtype, enabled=run.amp_dtype is not None):
                result = task(images, target, **groups)
            _backward(run, result["loss"] / group, update)
        losses.add(step, result, batch[1], run.lr)
        exchanged += [result["exchanged"]] if "exchanged" in result else []
        if update:
            updates += 1
            optimizer.zero_grad()
            task.update_ema(step=updates)
            run.scheduler.step_update(num_updates=updates)
        if (step + 1) % args.log_interval == 0 or step + 1 == steps:
            losses.look()
            bar.set_postfix(loss=f"{losses.mean[0]:.4f}", lr=f"{run.lr:.3g}")
        if show_bar and bar.disable and time.monotonic() - logged > 60:  # no terminal
            losses.look()
            log(f"epoch {epoch + 1}/{run.epochs}  step {step + 1}/{steps}  train loss {losses.mean[0]:.4f}")
            logged = time.monotonic()
    if hasattr(optimizer, "sync_lookahead"):
        optimizer.sync_lookahead()
    parts = run.processes.gather((*losses.totals, losses.count, sum(exchanged), len(exchanged)))
    total, own, count, exchanges, batches = (sum(part) for part in zip(*parts))
    metrics = {"loss": total / count, "loss_own": own / count}
    return metrics | ({"exchanged": exchanges / batches} if batches else {})


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
    """The losses of an epoch, read from the device only occasionally, because each read waits for the device."""

    def __init__(self, epoch: int):
        self.epoch, self.totals, self.count = epoch, (0.0, 0.0), 0
        self.unread: list[tuple[int, Tensor, int, float]] = []

    def add(self, step: int, result: dict[str, Any], target: Tensor, lr: float) -> None:
        output = result["output"].detach().float()
        own = F.cross_entropy(output, target.to(output.device))
        self.unread.append((step, torch.stack((result["loss"].detach().float(), own)), len(target), lr))

    def look(self) -> None:
        if not self.unread:
            return
        values = torch.stack([losses for _, losses, _, _ in self.unread]).tolist()
        for (step, _, size, lr), (loss, own) in zip(self.unread, values):
            if not math.isfinite(loss):
                what = f"loss is {loss} at epoch {self.epoch}, step {step}"
                raise FloatingPointError(_not_finite(what, self.epoch, lr))
            self.totals = self.totals[0] + loss * size, self.totals[1] + own * size
            self.count += size
        self.unread = []

    @property
    def mean(self) -> tuple[float, float]:
        return self.totals[0] / self.count, self.totals[1] / self.count


def _not_finite(what: str, epoch: int, lr: float) -> str:
    kept = f"the checkpoint of epoch {epoch - 1} is kept" if epoch else "no checkpoint has been written yet"
    return f"{what} (counted from 0), lr {lr:g}; {kept}. A lower lr, warm-up or clip_grad may help"


def _evaluate(run: TrainingSetup, epoch: int) -> dict[str, Any]:
    run.distribute_bn()
    loader: Any = run.eval_loader
    if run.processes.count > 1:
        loader = first_samples(loader, run.processes.share_of(len(loader.dataset)))
    metrics = evaluate(
        run.eval_model,
        loader,
        run.device,
        amp_dtype=run.amp_dtype,
        dtype=run.dtype,
        channels_last=run.args.channels_last,
        groups=group_names(run.eval_loader.dataset),
        gather=run.processes.gather,
    )
    if not math.isfinite(metrics["loss"]):
        what = f"evaluation loss is {metrics['loss']} after epoch {epoch}"
        raise FloatingPointError(_not_finite(what, epoch, run.lr))
    return metrics


def _card(recipe: Recipe, run: TrainingSetup, state: Progress) -> dict[str, Any]:
    metrics = state.metrics
    return {
        "dataset": recipe.settings.get("dataset", ""),
        "split": run.args.val_split,
        "recipe": recipe.effective_settings(),
        "origin": None if isinstance(run.task, MoExTask) else "Trained by timm_moex without exchanging moments.",
        "top1": {"value": round(metrics["top1"], 2)},
        "seeds": [run.args.seed],
        "device": str(run.device) if run.processes.count == 1 else f"{run.processes.count} x {run.device.type}",
        "results": f"top-1 {metrics['top1']:.2f}, top-5 {metrics['top5']:.2f} on {metrics['count']} images, "
        f"after epoch {state.epochs_done} of {run.epochs}",
    }
