"""Create the parts of a training run - model, data, loss, optimizer, schedule - as timm's train.py does.

Mixup and CutMix mix normalised images, as in train.py --no-prefetcher. The prefetcher would mix and round bytes.
"""

import argparse
import gc
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.data import Mixup, resolve_data_config
from timm.loss import create_classification_loss
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.scheduler.scheduler import Scheduler
from timm.task import TrainingTask
from timm.utils import NativeScaler, distribute_bn, random_seed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from ..task.task import MoExTask, create_task
from ..utils.devices import pick_device
from ..utils.messages import did_you_mean, short_repr
from ..utils.reraise import reraise_as
from .datasets import label_names
from .distributed import Processes
from .keys import RecipeError, explain_idle
from .loaders import create_loaders
from .model import create_model, try_first_step

__all__ = ["TrainingSetup", "set_up_training"]


@dataclass
class TrainingSetup:
    """A training run, ready to start."""

    args: argparse.Namespace  # `Recipe.arguments()`, with `lr` and `num_classes` filled in
    settings: dict[str, Any]  # all settings that the result depends on; a resumed run must have the same
    processes: Processes
    data_config: dict[str, Any]  # preprocessing: input_size, mean, std, interpolation, crop_pct, crop_mode
    train_loader: Any
    eval_loader: Any
    task: TrainingTask
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    epochs: int  # including cool-down
    updates_per_epoch: int
    scaler: NativeScaler | None  # for fp16 gradients on CUDA
    mixup: Mixup | None
    amp_dtype: torch.dtype | None  # for autocast
    dtype: torch.dtype  # of model and images

    @property
    def stops_after(self) -> int:
        """Number of epochs to train now: all, or `stop_epoch` of them, on the schedule of all."""
        return self.args.stop_epoch or self.epochs

    @property
    def initial_share(self) -> float:
        """Share of the initial weights left in the EMA at the end of training; 0 with EMA warm-up or without an EMA."""
        if not self.args.model_ema or self.args.model_ema_warmup:
            return 0.0
        return self.args.model_ema_decay ** (self.updates_per_epoch * self.stops_after)

    @property
    def device(self) -> torch.device:
        """Device of the model and the batches."""
        return self.processes.device

    @property
    def model(self) -> nn.Module:
        """The trained model, compiled if the recipe says so, and wrapped in DDP if there are multiple processes."""
        model = self.task.get_trainable_module()
        assert model is not None
        return model

    @property
    def eval_model(self) -> nn.Module:
        """The model to evaluate and save: the EMA if the recipe uses one."""
        model = self.task.get_eval_model(ema=self.task.has_ema())
        assert model is not None
        # DDP would wait for the other processes in every batch, even in evaluation
        return model.module if isinstance(model, DistributedDataParallel) else model

    @property
    def generator(self) -> torch.Generator | None:
        """The training loader's own generator."""
        return getattr(self.train_loader, "generator", None)

    @property
    def lr(self) -> float:
        """Mean learning rate of the parameter groups."""
        return sum(group["lr"] for group in self.optimizer.param_groups) / len(self.optimizer.param_groups)

    def close(self) -> None:
        """Remove DDP. It must be destroyed before its process group, or a gloo thread may hang."""
        model = self.task.get_trainable_module()
        if isinstance(model, DistributedDataParallel):
            self.task.trainable_module = model.module
            del model
            gc.collect()

    def set_epoch(self, epoch: int) -> None:
        """Tell every part that depends on the epoch, counted from 0, which epoch begins."""
        if isinstance(self.task, MoExTask):
            self.task.set_epoch(epoch)
        if self.mixup is not None and self.args.mixup_off_epoch and epoch >= self.args.mixup_off_epoch:
            self.mixup.mixup_enabled = False
        sampler = getattr(self.train_loader, "sampler", None)
        if isinstance(sampler, DistributedSampler):
            sampler.set_epoch(epoch)

    def distribute_bn(self) -> None:
        """Synchronise batch statistics between processes according to the recipe's `dist_bn`."""
        if self.processes.count > 1 and self.args.dist_bn:
            for ema in (False, True)[: 1 + self.task.has_ema()]:
                distribute_bn(self.task.get_trainable_module(ema), self.processes.count, self.args.dist_bn == "reduce")

    def prepare(
        self, images: Tensor, target: Tensor, groups: Tensor | None = None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Convert a batch to the task's arguments, mixed if the recipe says so.

        Returns:
            Images (B, C, H, W); labels (B,) or (B, classes); and `groups`, (B,), if donors come from other groups.
        """
        memory_format = torch.channels_last if self.args.channels_last else torch.preserve_format
        images = images.to(self.device, self.dtype, memory_format=memory_format)
        target = target.to(self.device)
        if self.mixup is not None:
            images, target = self.mixup(images, target)
        if groups is None or self.args.donors_from == "any" or not isinstance(self.task, MoExTask):
            return images, target, {}
        return images, target, {"groups": groups}


def set_up_training(args: argparse.Namespace, processes: Processes | None = None) -> TrainingSetup:
    """Seed all generators, and create the parts of a run.

    Args:
        args: `Recipe.arguments()`; not modified.
        processes: This process and the others of the training, see `join_processes`; None for a single process.
            `batch_size` is per process, as in train.py.
    """
    processes = processes or Processes(pick_device(args.device))
    device = processes.device
    _import_modules(args.device_modules or [])
    if device.type == "cuda":  # as train.py
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    random_seed(args.seed, 0)
    dtype = getattr(torch, args.model_dtype or "float32")
    if args.amp and dtype != torch.float32:
        raise RecipeError(f"amp: true with model_dtype: {args.model_dtype}: set only one of them")
    amp_dtype = getattr(torch, args.amp_dtype) if args.amp else None
    idle = [key for key in vars(args) if explain_idle(key, vars(args))]
    model = create_model(args)
    args = argparse.Namespace(
        **vars(args) | {"lr": _learning_rate(args, processes.count), "num_classes": model.num_classes}
    )
    data_config = _resolve_data_config(args, model)
    model.to(device=device, dtype=dtype)
    if args.channels_last:
        model.to(memory_format=torch.channels_last)
    train_loader, eval_loader = create_loaders(args, data_config, processes, dtype)
    mixup = _create_mixup(args)
    criterion = _create_criterion(args, soft_targets=mixup is not None)
    task = create_task(model, criterion, device=device, dtype=dtype, verbose=False)
    if isinstance(task, MoExTask):
        task.set_epoch(0)
    try_first_step(task, data_config["input_size"], args, dtype, device)
    optimizer = _create_optimizer(args, model)
    _add_ema_and_compile(args, task)
    updates_per_epoch = -(-len(train_loader) // args.grad_accum_steps)
    with reraise_as(RecipeError, f"sched: {args.sched!r}"):
        scheduler, epochs = create_scheduler_v2(
            optimizer, **scheduler_kwargs(args), updates_per_epoch=updates_per_epoch
        )
    _check_epochs(args, epochs)
    if processes.count > 1:  # last, so that no error leaves a DDP model behind
        for part, loader in (("training", train_loader), ("evaluation", eval_loader)):
            processes.agree({f"{part} images": len(loader.dataset), f"{part} classes": label_names(loader.dataset)})
        task.prepare_distributed(device_ids=None if device.type == "cpu" else [device])
        random_seed(args.seed, processes.rank)  # so far all drew the same numbers; from here on, each draws its own
    scaler = NativeScaler() if device.type == "cuda" and amp_dtype == torch.float16 else None
    settings = {key: value for key, value in vars(args).items() if key not in ("resume", *idle)}
    return TrainingSetup(
        args,
        settings | {"processes": processes.count},
        processes,
        data_config,
        train_loader,
        eval_loader,
        task,
        optimizer,
        scheduler,
        epochs,
        updates_per_epoch,
        scaler,
        mixup,
        amp_dtype,
        dtype,
    )


def _add_ema_and_compile(args: argparse.Namespace, task: TrainingTask) -> None:
    if args.model_ema:
        task.setup_ema(decay=args.model_ema_decay, use_warmup=args.model_ema_warmup)
    if args.torchcompile:
        how = dict(backend=args.torchcompile, mode=args.torchcompile_mode)
        with reraise_as(RecipeError, f"torchcompile: {args.torchcompile!r}, mode: {args.torchcompile_mode!r}"):
            task.compile(**how)
            task.compile_ema(**how)


def _create_criterion(args: argparse.Namespace, *, soft_targets: bool) -> nn.Module:
    """Create timm's loss of that name; `bce_loss` is train.py's older spelling of loss: bce."""
    loss = args.loss or ("bce" if args.bce_loss else "ce")
    if args.bce_loss and loss != "bce":
        raise RecipeError(f"loss: {args.loss!r} with bce_loss: true: set only one of them")
    if args.bce_loss and not (args.loss or soft_targets or args.smoothing):
        raise RecipeError("bce_loss: true has no effect without mixup, cutmix or smoothing; set loss: bce")
    bce = dict(bce_target_thresh=args.bce_target_thresh, bce_sum=args.bce_sum, pos_weight=args.bce_pos_weight)
    own = bce if loss == "bce" else {}
    with reraise_as(RecipeError, f"loss: {loss!r} with smoothing: {args.smoothing}"):
        return create_classification_loss(loss, smoothing=args.smoothing, soft_targets=soft_targets, **own)


def _import_modules(names: Sequence[str]) -> None:
    for name in names:
        if name != "timm_moex.plugin":  # train.py needs it; here, create_task does the same
            with reraise_as(RecipeError, f"device_modules: {name!r} cannot be imported"):
                importlib.import_module(name)


def _resolve_data_config(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Resolve timm's data config, after checking what timm only asserts."""
    if args.input_size and args.in_chans not in (None, args.input_size[0]):
        raise RecipeError(f"in_chans: {args.in_chans} contradicts input_size: {args.input_size}; leave out one of them")
    size = args.input_size or model.pretrained_cfg["input_size"]
    channels = args.in_chans or size[0]
    if channels != size[0] and args.img_size is None:
        raise RecipeError(
            f"in_chans: {args.in_chans}, but {args.model} expects images of {size[0]} channels; also set input_size: "
            f"{[channels, *size[1:]]}, mean and std"
        )
    for key in ("mean", "std"):
        given = getattr(args, key)
        if given is not None and len(given) not in (1, channels):
            raise RecipeError(f"{key}: {given}: {len(given)} values, but the images have {channels} channels")
    return resolve_data_config(vars(args), model=model)


def _create_mixup(args: argparse.Namespace) -> Mixup | None:
    if not (args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None):
        return None
    if args.batch_size % 2:
        raise RecipeError(f"batch_size: {args.batch_size}: Mixup and CutMix need an even batch size")
    names = ("mixup", "cutmix", "cutmix_minmax", "mixup_prob", "mixup_switch_prob", "mixup_mode")
    smoothing = dict(label_smoothing=args.smoothing, num_classes=args.num_classes)
    return Mixup(*(getattr(args, name) for name in names), **smoothing)


def _check_epochs(args: argparse.Namespace, epochs: int) -> None:
    """Refuse `stop_epoch` and `save_epochs` that the run would never reach."""
    if args.stop_epoch and args.stop_epoch > epochs:
        raise RecipeError(f"stop_epoch: {args.stop_epoch}: the run has only {epochs} epochs")
    if late := [epoch for epoch in args.save_epochs or () if epoch > (args.stop_epoch or epochs)]:
        stop = f" and stop_epoch: {args.stop_epoch}" if args.stop_epoch else ""
        raise RecipeError(f"save_epochs: {late}: the run has only {epochs} epochs{stop}")


def _create_optimizer(args: argparse.Namespace, model: nn.Module) -> torch.optim.Optimizer:
    known, name = list_optimizers(), args.opt.lower().removeprefix("lookahead_")
    if name not in known:
        raise RecipeError(f"opt: {args.opt!r}: timm has no such optimizer{did_you_mean(args.opt, known)}")
    wanted = get_optimizer_info(name).num_betas
    if args.opt_betas and len(args.opt_betas) != wanted:
        raise RecipeError(f"opt_betas: {args.opt_betas}: optimizer {args.opt!r} expects {wanted} values")
    with reraise_as(RecipeError, f"opt: {args.opt!r} with opt_kwargs: {short_repr(args.opt_kwargs)}"):
        return create_optimizer_v2(model, **optimizer_kwargs(cfg=args), **args.opt_kwargs)


def _learning_rate(args: argparse.Namespace, processes: int) -> float:
    """Compute the learning rate as train.py does: `lr`, or `lr_base` scaled by the batch size."""
    if args.lr:
        return args.lr
    ratio = args.batch_size * processes * args.grad_accum_steps / args.lr_base_size
    adaptive = any(word in args.opt.lower() for word in ("ada", "lamb"))
    scaling = args.lr_base_scale or ("sqrt" if adaptive else "linear")
    return args.lr_base * (ratio**0.5 if scaling == "sqrt" else ratio)
