"""The built-in trainer: what timm's train.py does, in one process, as one loop that can be read from top to bottom."""

import argparse
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from timm.utils import dispatch_clip_grad, unwrap_model, update_summary
from torch import Tensor, nn
from tqdm import tqdm

from ..hub.folder import save_folder
from ..utils.files import write_atomically
from .checkpoint import load_checkpoint, save_checkpoint
from .datasets import label_names, unreadable_files
from .evaluate import evaluate
from .recipe import Recipe, RecipeError
from .setup import TrainingSetup, set_up_training
from .task import MoExTask

__all__ = ["Result", "train"]

# Settings that a resumed run may change: where things lie and how fast they go. Bit-exact only on the same device
# and, without --in-memory, with the same number of workers.
_MAY_DIFFER = frozenset(
    {"resume", "output", "experiment", "data_dir", "workers", "log_interval", "pin_mem", "device", "device_modules"}
)


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
    log: Callable[[str], None] = print,
    progress: bool = True,
) -> Result:
    """Train a model by a recipe.

    The last epoch is the result; the best is kept beside it. With `resume` in the recipe a run goes on where the
    checkpoint left it, on the CPU bit for bit.

    Args:
        recipe: What to train, see `load_recipe`.
        folder: Where to write; default `output`/`experiment` of the recipe, else output/<recipe's name>.
        in_memory: Keep the whole dataset on the device, with the augmentation of `InMemoryLoader`.
        pad: Of its crop, in pixels.
        skip_unreadable: Leave out evaluation images that cannot be read, instead of an error.
        log: Gets one line per epoch.
        progress: Show a bar where stderr is a terminal.

    Raises:
        RecipeError: The recipe asks for something that is not there.
        DataError: Likewise of the data.
        FileExistsError: `folder` holds a run already and `resume` is not given.
        FloatingPointError: The loss is not finite; the checkpoint of the epoch before stays.
    """
    args = recipe.arguments()
    folder = Path(folder or Path(args.output or "output") / (args.experiment or recipe.name))
    last = folder / "last.pth.tar"
    if last.exists() and not args.resume:
        raise FileExistsError(f"{folder} holds a run already; go on with --resume {last}, or choose another --output")
    run = set_up_training(args, pad if in_memory else None, skip_unreadable)
    args = run.args
    settings = vars(args) | {"in_memory": in_memory, "pad": pad if in_memory else None}
    start, best = _resume(run, settings) if args.resume else (0, {})
    _open_folder(folder, recipe, settings, start)

    for epoch in range(start, run.epochs):
        began = time.time()
        train_metrics = _train_one_epoch(run, epoch, progress)
        lr = run.lr
        metrics = _evaluate(run, epoch)
        run.scheduler.step(epoch + 1, metrics[args.eval_metric])
        is_best = _is_better(args.eval_metric, metrics, best)
        if is_best:
            best = {"epoch": epoch, args.eval_metric: metrics[args.eval_metric]}
        summary = folder / "summary.csv"
        update_summary(epoch, train_metrics, metrics, str(summary), lr=lr, write_header=not summary.exists())
        save_checkpoint(
            last, run.task, run.optimizer, run.scaler, epoch=epoch, args=settings, generator=run.generator,
            metric=metrics[args.eval_metric], best=best, eval_metrics=metrics,
        )  # fmt: skip
        if is_best:
            write_atomically(folder / "model_best.pth.tar", lambda file: shutil.copyfileobj(last.open("rb"), file))
        log(
            f"epoch {epoch + 1}/{run.epochs}  train loss {train_metrics['loss']:.4f}  eval loss {metrics['loss']:.4f}  "
            f"top-1 {metrics['top1']:.2f}  lr {lr:.3g}  {time.time() - began:.1f} s"
        )
        for part, loader in (("training", run.train_loader), ("evaluation", run.eval_loader)):
            if unreadable := unreadable_files(loader.dataset):
                log(f"{len(unreadable)} {part} images could not be read and were left out, such as {unreadable[0]}")

    model = unwrap_model(run.eval_model)
    save_folder(
        model, folder / "hub", run.data_config, label_names=label_names(run.eval_loader.dataset),
        model_args=_architecture_args(args), summary=folder / "summary.csv", card=_card(recipe, run, metrics),
    )  # fmt: skip
    return Result(model, metrics, best, folder)


def _resume(run: TrainingSetup, settings: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Put the run back where its checkpoint left it; returns the epoch to go on with, and the best so far."""
    state = load_checkpoint(
        Path(run.args.resume), run.task, run.optimizer, run.scaler,
        args=settings, may_differ=_MAY_DIFFER, generator=run.generator,
    )  # fmt: skip
    start = state["epoch"] + 1
    if start >= run.epochs:
        raise RecipeError(f"resume: {run.args.resume} has all {run.epochs} epochs already")
    return start, state["best"]


def _train_one_epoch(run: TrainingSetup, epoch: int, progress: bool) -> dict[str, float]:
    """One pass over the training set; returns the mean loss and, for a MoEx model, the share of exchanged batches."""
    args, task, optimizer = run.args, run.task, run.optimizer
    run.model.train()
    if run.mixup is not None and args.mixup_off_epoch and epoch >= args.mixup_off_epoch:
        run.mixup.mixup_enabled = False
    steps, updates = len(run.train_loader), epoch * run.updates_per_epoch
    last_group = steps - steps % args.grad_accum_steps  # the steps from here on make a shorter group
    losses, exchanged = _Losses(epoch), []
    optimizer.zero_grad()
    bar = tqdm(run.train_loader, f"epoch {epoch + 1}/{run.epochs}", leave=False, disable=None if progress else True)
    for step, batch in enumerate(bar):
        images, target = run.prepare(*batch)
        with torch.autocast(run.device.type, dtype=run.amp_dtype, enabled=run.amp_dtype is not None):
            result = task(images, target)
        group = args.grad_accum_steps if step < last_group else steps - last_group
        update = step + 1 == steps or (step + 1) % args.grad_accum_steps == 0
        losses.add(step, result["loss"], len(images), run.lr)
        exchanged += [result["exchanged"]] if "exchanged" in result else []
        _backward(run, result["loss"] / group, update)
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
    return {"loss": losses.mean} | ({"exchanged": sum(exchanged) / len(exchanged)} if exchanged else {})


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
    metrics = evaluate(
        run.eval_model, run.eval_loader, run.device,
        amp_dtype=run.amp_dtype, dtype=run.dtype, channels_last=run.args.channels_last,
    )  # fmt: skip
    if not math.isfinite(metrics["loss"]):
        what = f"evaluation loss is {metrics['loss']} after epoch {epoch}"
        raise FloatingPointError(_not_finite(what, epoch, run.lr))
    return metrics


def _is_better(key: str, metrics: dict[str, Any], best: dict[str, Any]) -> bool:
    if not best:
        return True
    return metrics[key] < best[key] if key == "loss" else metrics[key] > best[key]


def _open_folder(folder: Path, recipe: Recipe, settings: dict[str, Any], start: int) -> None:
    """Make the folder, write down what is run, and drop the summary's rows from epoch `start` on."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = f"timm {timm.__version__}, torch {torch.__version__}"
    note = f"# timm-moex train, in_memory: {settings['in_memory']}, {versions}\n"
    (folder / "recipe.yaml").write_text(note + yaml.safe_dump(recipe.settings, sort_keys=False))
    summary = folder / "summary.csv"
    if summary.exists():
        header, *rows = summary.read_bytes().splitlines(keepends=True)
        summary.write_bytes(header + b"".join(row for row in rows if int(row.split(b",")[0]) < start))


def _architecture_args(args: argparse.Namespace) -> dict[str, Any]:
    """What the model must be built with again to compute the same."""
    chosen = {"global_pool": args.gp, "bn_eps": args.bn_eps}
    return args.model_kwargs | {key: value for key, value in chosen.items() if value is not None}


def _card(recipe: Recipe, run: TrainingSetup, metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "dataset": recipe.settings.get("dataset", ""),
        "split": run.args.val_split,
        "recipe": recipe.settings,
        "origin": None if isinstance(run.task, MoExTask) else "Trained by timm_moex, without an exchange of moments.",
        "top1": {"value": round(metrics["top1"], 2)},
        "seeds": [run.args.seed],
        "device": str(run.device),
        "results": f"top-1 {metrics['top1']:.2f}, top-5 {metrics['top5']:.2f} on {metrics['count']} images, "
        f"after epoch {run.epochs} of {run.epochs}",
    }
