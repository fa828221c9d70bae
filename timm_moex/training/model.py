"""The model of a training run: create it as train.py does, and try it on a small batch before any file is written."""

import argparse
import copy
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub.constants import CONFIG_NAME
from timm.models import load_checkpoint
from timm.task import TrainingTask

from ..hub.convert import without_common_prefix
from ..hub.download import translate_errors
from ..insertion.exchanging import exchanging
from ..insertion.insert import insert_moex
from ..models.twin import take_settings
from ..task.task import MoExTask
from ..utils.messages import short_repr
from ..utils.names import check_model_name
from ..utils.reraise import reraise_as
from .keys import RecipeError

__all__ = ["create_model", "try_first_step"]


def create_model(args: argparse.Namespace) -> Any:
    """Create the recipe's model as train.py does; `args` are `Recipe.arguments()`."""
    check_model_name(args.model)
    for key in ("initial_checkpoint", "pretrained_path"):
        path = getattr(args, key)
        if path and not Path(path).is_file():
            raise RecipeError(f"{key}: {path!r}: no such file")
    # train.py's default of 3 would contradict weights with other channels; with None, timm reads the model's cfg
    in_chans = args.in_chans or (args.input_size[0] if args.input_size else None)
    # "local-dir:" and "hf-hub:" load a stock architecture, into which MoEx is then inserted
    settings, model_kwargs = take_settings(args.model_kwargs) if ":" in args.model else ({}, args.model_kwargs)
    chosen = (
        "num_classes",
        "gp",
        "in_chans",
        "bn_momentum",
        "bn_eps",
        "drop_path",
        "drop_block",
        "pretrained_path",
        "model_kwargs",
    )
    given = ", ".join(f"{key}: {short_repr(getattr(args, key))}" for key in chosen if getattr(args, key))
    from_hub = args.pretrained and not args.pretrained_path or ":" in args.model
    explain = translate_errors(args.model) if from_hub else nullcontext()
    with reraise_as(RecipeError, f"model: {args.model!r} with {given or 'its defaults'}"), explain:
        model: Any = timm.create_model(
            args.model,
            pretrained=args.pretrained,
            pretrained_cfg_overlay=_overlay(args, in_chans),
            in_chans=in_chans,
            num_classes=args.num_classes,
            drop_rate=args.drop,
            drop_path_rate=args.drop_path,
            drop_block_rate=args.drop_block,
            global_pool=args.gp,
            bn_momentum=args.bn_momentum,
            bn_eps=args.bn_eps,
            **model_kwargs,
        )
        if settings:
            insert_moex(model, **settings)
        if args.grad_checkpointing:
            model.set_grad_checkpointing(enable=True)
    if args.initial_checkpoint:
        with reraise_as(RecipeError, f"initial_checkpoint: {args.initial_checkpoint!r} does not fit {args.model}"):
            load_checkpoint(model, args.initial_checkpoint, filter_fn=without_common_prefix)
    return model


def _overlay(args: argparse.Namespace, in_chans: int | None) -> dict[str, Any] | None:
    """Change the pretrained cfg for a checkpoint that is given as pretrained weights.

    Channels, size and normalisation come from the config.json next to the checkpoint if it differs in channels.
    """
    if not args.pretrained_path:
        return None
    # num_classes=-1 makes timm create a new head, regardless of the classes of the weights
    overlay = {"file": args.pretrained_path, "num_classes": -1}
    config = Path(args.pretrained_path).with_name(CONFIG_NAME)
    own = timm.get_pretrained_cfg(args.model)
    if in_chans is not None or own is None or not config.is_file():
        return overlay
    with reraise_as(RecipeError, str(config)):
        cfg = json.loads(config.read_text(encoding="utf-8"))["pretrained_cfg"]
        if cfg["input_size"][0] == own.input_size[0]:
            return overlay
        return overlay | {key: tuple(cfg[key]) for key in ("input_size", "mean", "std")}


def try_first_step(
    task: TrainingTask, input_size: Sequence[int], args: argparse.Namespace, dtype: torch.dtype, device: torch.device
) -> None:
    """Run the forward pass of a training step on one or two black images, with a copy of the task.

    Settings that do not fit together - the size or channels of the images, a pool, a batch of one in a batch norm, a
    norm of the exchange that does not divide the channels - then fail before any file is written, instead of deep
    inside torch in the first step or in the first epoch that exchanges.
    """
    shape = (min(2, args.batch_size), *input_size)
    target = torch.zeros(shape[0], dtype=torch.long, device=device)
    if args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax:
        target = torch.nn.functional.one_hot(target, args.num_classes).float()
    keys = ("batch_size", "in_chans", "input_size", "img_size", "gp")
    settings = ", ".join(f"{key}: {getattr(args, key)!r}" for key in keys)
    what = f"{args.model} cannot process images of shape {shape} ({settings})"
    autocast = torch.autocast(device.type, dtype=getattr(torch, args.amp_dtype), enabled=args.amp)
    random_states = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with reraise_as(RecipeError, what), random_states, torch.no_grad(), autocast:
        trial, images = copy.deepcopy(task), torch.zeros(shape, dtype=dtype, device=device)
        trial(images, target)
        if isinstance(trial, MoExTask):  # it may have drawn no exchange, or only one of several sites
            model: Any = trial.get_trainable_module()
            donors = torch.arange(len(target), device=device).flip(0)
            with exchanging(model, {exchange.site.name: donors for exchange in trial.moex.sites}):
                model(images)
