"""The parts of a training run - model, data, loss, optimizer, schedule - made as timm's train.py makes them.

Where it mixes images, as train.py --no-prefetcher: normalised ones, where the prefetcher mixes and rounds bytes.
"""

import argparse
import importlib
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.data import Mixup, resolve_data_config
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2, list_optimizers, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.scheduler.scheduler import Scheduler
from timm.task import TrainingTask
from timm.utils import NativeScaler, random_seed
from torch import Tensor, nn

from ..utils.devices import pick_device
from ..utils.messages import nearest, short_repr
from ..utils.names import check_model_name
from .loaders import create_loaders
from .recipe import RecipeError
from .task import create_task

__all__ = ["TrainingSetup", "create_model", "set_up_training"]


@dataclass
class TrainingSetup:
    """A training run, ready to start.

    Attributes:
        args: `Recipe.arguments()`, with `lr` and `num_classes` filled in.
        device: Where the model and the batches are.
        data_config: Preprocessing: input_size, mean, std, interpolation, crop_pct, crop_mode.
        epochs: Number of epochs, cool-down included.
        updates_per_epoch: Optimizer steps per epoch.
        scaler: Of fp16 gradients on CUDA, else None.
        mixup: timm's Mixup/CutMix, or None.
        amp_dtype: Type for autocast, None for none.
        dtype: Type of model and images.
    """

    args: argparse.Namespace
    device: torch.device
    data_config: dict[str, Any]
    train_loader: Any
    eval_loader: Any
    task: TrainingTask
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    epochs: int
    updates_per_epoch: int
    scaler: NativeScaler | None
    mixup: Mixup | None
    amp_dtype: torch.dtype | None
    dtype: torch.dtype

    @property
    def model(self) -> nn.Module:
        """The model that is trained, compiled where the recipe compiles."""
        model = self.task.get_trainable_module()
        assert model is not None
        return model

    @property
    def eval_model(self) -> nn.Module:
        """The model that is evaluated and saved: the EMA where the recipe keeps one."""
        model = self.task.get_eval_model(ema=self.task.has_ema())
        assert model is not None
        return model

    @property
    def generator(self) -> torch.Generator | None:
        """The training loader's own generator; None for timm's loader, which draws from torch's."""
        return getattr(self.train_loader, "generator", None)

    @property
    def lr(self) -> float:
        """Mean learning rate of the parameter groups."""
        return sum(group["lr"] for group in self.optimizer.param_groups) / len(self.optimizer.param_groups)

    def prepare(self, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """A batch as the model takes it, mixed where the recipe mixes: (B, C, H, W) and (B,) or (B, classes)."""
        memory_format = torch.channels_last if self.args.channels_last else torch.preserve_format
        images = images.to(self.device, self.dtype, memory_format=memory_format)
        target = target.to(self.device)
        return (images, target) if self.mixup is None else self.mixup(images, target)


def set_up_training(args: argparse.Namespace, pad: int | None = None, skip_unreadable: bool = False) -> TrainingSetup:
    """Seed everything and make the parts of a run.

    Args:
        args: `Recipe.arguments()`; left as it is.
        pad: None for timm's loaders; else the dataset is kept on the device, see `InMemoryLoader`.
        skip_unreadable: See `create_loaders`.

    Raises:
        RecipeError: Unknown model, optimizer or device, or settings that do not go together.
        DataError: See `open_dataset`.
    """
    device = pick_device(args.device)
    for module in args.device_modules or []:
        if module != "timm_moex.plugin":  # what it does for train.py, create_task does here
            importlib.import_module(module)
    if device.type == "cuda":  # as train.py
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    random_seed(args.seed, 0)
    dtype = getattr(torch, args.model_dtype or "float32")
    if args.amp and dtype != torch.float32:
        raise RecipeError(f"amp: true with model_dtype: {args.model_dtype}: choose one of them")
    amp_dtype = getattr(torch, args.amp_dtype) if args.amp else None
    model = create_model(args)
    args = argparse.Namespace(**vars(args) | {"lr": _learning_rate(args), "num_classes": model.num_classes})
    data_config = resolve_data_config(vars(args), model=model)
    model.to(device=device, dtype=dtype)
    if args.channels_last:
        model.to(memory_format=torch.channels_last)
    train_loader, eval_loader = create_loaders(args, data_config, device, dtype, pad, skip_unreadable)
    mixup = _create_mixup(args)
    task = create_task(model, _create_criterion(args, mixup), device=device, dtype=dtype, verbose=False)
    optimizer = _create_optimizer(args, model)
    if args.model_ema:
        task.setup_ema(decay=args.model_ema_decay, use_warmup=args.model_ema_warmup)
    if args.torchcompile:
        task.compile(backend=args.torchcompile, mode=args.torchcompile_mode)
        task.compile_ema(backend=args.torchcompile, mode=args.torchcompile_mode)
    updates_per_epoch = -(-len(train_loader) // args.grad_accum_steps)
    scheduler, epochs = create_scheduler_v2(optimizer, **scheduler_kwargs(args), updates_per_epoch=updates_per_epoch)
    scaler = NativeScaler() if device.type == "cuda" and amp_dtype == torch.float16 else None
    return TrainingSetup(
        args, device, data_config, train_loader, eval_loader, task, optimizer, scheduler, epochs, updates_per_epoch,
        scaler, mixup, amp_dtype, dtype,
    )  # fmt: skip


def create_model(args: argparse.Namespace) -> Any:
    """The recipe's model, as train.py creates it.

    Raises:
        RecipeError: Unknown model, or model_kwargs that it does not take.
    """
    check_model_name(args.model)
    # A checkpoint given as pretrained weights: num_classes=-1 makes timm take a new head, whatever it was trained for.
    overlay = {"file": args.pretrained_path, "num_classes": -1} if args.pretrained_path else None
    in_chans = args.in_chans or (args.input_size[0] if args.input_size else 3)
    try:
        model: Any = timm.create_model(
            args.model,
            pretrained=args.pretrained,
            pretrained_cfg_overlay=overlay,
            checkpoint_path=args.initial_checkpoint,
            in_chans=in_chans,
            num_classes=args.num_classes,
            drop_rate=args.drop,
            drop_path_rate=args.drop_path,
            drop_block_rate=args.drop_block,
            global_pool=args.gp,
            bn_momentum=args.bn_momentum,
            bn_eps=args.bn_eps,
            **args.model_kwargs,
        )
    except TypeError as error:
        raise RecipeError(f"model {args.model} with model_kwargs {short_repr(args.model_kwargs)}: {error}") from error
    if args.grad_checkpointing:
        model.set_grad_checkpointing(enable=True)
    return model


def _create_mixup(args: argparse.Namespace) -> Mixup | None:
    if not (args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None):
        return None
    if args.batch_size % 2:
        raise RecipeError(f"batch_size: {args.batch_size}: Mixup and CutMix need an even one")
    return Mixup(
        mixup_alpha=args.mixup,
        cutmix_alpha=args.cutmix,
        cutmix_minmax=args.cutmix_minmax,
        prob=args.mixup_prob,
        switch_prob=args.mixup_switch_prob,
        mode=args.mixup_mode,
        label_smoothing=args.smoothing,
        num_classes=args.num_classes,
    )


def _create_criterion(args: argparse.Namespace, mixup: Mixup | None) -> nn.Module:
    """train.py's choice of loss; Mixup smooths the labels itself."""
    if args.bce_loss and (mixup is not None or args.smoothing):
        return BinaryCrossEntropy(
            smoothing=0.0 if mixup is not None else args.smoothing,
            target_threshold=args.bce_target_thresh,
            sum_classes=args.bce_sum,
            pos_weight=args.bce_pos_weight,
        )
    if args.bce_loss:
        raise RecipeError("bce_loss: true without mixup, cutmix or smoothing: train.py would use cross-entropy")
    if mixup is not None:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(args.smoothing) if args.smoothing else nn.CrossEntropyLoss()


def _create_optimizer(args: argparse.Namespace, model: nn.Module) -> torch.optim.Optimizer:
    known = list_optimizers()
    if args.opt.lower().removeprefix("lookahead_") not in known:
        raise RecipeError(f"opt: {args.opt!r} is unknown to timm{nearest(args.opt, known)}")
    return create_optimizer_v2(model, **optimizer_kwargs(cfg=args), **args.opt_kwargs)


def _learning_rate(args: argparse.Namespace) -> float:
    """train.py's: `lr`, or where there is none, `lr_base` scaled by the batch size."""
    if args.lr:
        return args.lr
    ratio = args.batch_size * args.grad_accum_steps / args.lr_base_size
    adaptive = any(word in args.opt.lower() for word in ("ada", "lamb"))
    scaling = args.lr_base_scale or ("sqrt" if adaptive else "linear")
    return args.lr_base * (ratio**0.5 if scaling == "sqrt" else ratio)
