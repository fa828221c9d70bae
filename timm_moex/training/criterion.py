"""The loss of a training run, chosen as timm's train.py chooses it."""

import argparse

from timm.loss import (
    BinaryCrossEntropy,
    LabelSmoothingCrossEntropy,
    SoftTargetCrossEntropy,
    create_classification_loss,
)
from torch import nn

from ..utils.blaming import blaming
from .recipe import RecipeError

__all__ = ["create_criterion"]


def create_criterion(args: argparse.Namespace, *, soft_targets: bool) -> nn.Module:
    """The recipe's loss: `loss` by timm's name, else what `bce_loss`, Mixup and `smoothing` ask for.

    Args:
        args: `Recipe.arguments()`.
        soft_targets: Whether Mixup or CutMix make the targets, (B, classes); they smooth the labels themselves.

    Raises:
        RecipeError: The keys contradict one another, or timm has no such loss for these targets.

    Example:
        >>> from timm_moex.training.recipe import Recipe
        >>> create_criterion(Recipe("mine", {"loss": "poly"}).arguments(), soft_targets=False)
        PolyCrossEntropy()
    """
    if args.loss:
        return _create_named_loss(args, soft_targets)
    if args.bce_loss and (soft_targets or args.smoothing):
        return BinaryCrossEntropy(
            smoothing=0.0 if soft_targets else args.smoothing,
            target_threshold=args.bce_target_thresh,
            sum_classes=args.bce_sum,
            pos_weight=args.bce_pos_weight,
        )
    if args.bce_loss:
        raise RecipeError("bce_loss: true without mixup, cutmix or smoothing: train.py would use cross-entropy")
    if soft_targets:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(args.smoothing) if args.smoothing else nn.CrossEntropyLoss()


def _create_named_loss(args: argparse.Namespace, soft_targets: bool) -> nn.Module:
    if args.bce_loss and args.loss != "bce":
        raise RecipeError(f"loss: {args.loss!r} with bce_loss: true: give one of them")
    if args.loss != "bce" and args.bce_pos_weight is not None:
        raise RecipeError(f"bce_pos_weight: {args.bce_pos_weight} is of loss: 'bce', got loss: {args.loss!r}")
    bce = dict(bce_target_thresh=args.bce_target_thresh, bce_sum=args.bce_sum, pos_weight=args.bce_pos_weight)
    with blaming(f"loss: {args.loss!r} with smoothing: {args.smoothing}", RecipeError):
        return create_classification_loss(
            args.loss, smoothing=args.smoothing, soft_targets=soft_targets, **(bce if args.loss == "bce" else {})
        )
