"""`timm-moex eval` and `timm-moex predict`: run a saved model on a test set."""

import argparse
from typing import Any

from .options import (
    add_command,
    add_model_and_data,
    evaluate_opened,
    metrics_in_words,
    open_model_and_data,
    percent,
    positive,
)
from .outputs import add_output, check_output, check_picture

__all__ = ["add_eval", "add_predict"]

_SAMPLE = '--dataset torch/fashion_mnist --data-dir "$(timm-moex sample)"'


def add_eval(commands: Any) -> None:
    """Add `eval`."""
    parser = add_command(
        commands,
        "eval",
        "print top-1, top-5 and loss of a model",
        f"timm-moex eval resnet20_cifar.fmnist_sample {_SAMPLE}",
        "timm-moex eval output/my_run/hub --data-dir FOLDER --per-class classes.csv",
    )
    add_model_and_data(parser)
    parser.add_argument("--min-top1", type=percent, metavar="TOP1", help="exit with 1 if top-1 is lower")
    parser.add_argument("--subset", metavar="SET", help="imagenet-a or imagenet-r: DIR contains its 200 synset folders")
    add_output(parser, "--per-class", metavar="FILE.csv", help="write the image count and top-1 of each class")
    parser.set_defaults(run=_run_eval)


def _run_eval(args: argparse.Namespace) -> int:
    from ..training.evaluate import is_per_class, write_per_class
    from ..training.inference import locate_subset

    if args.per_class:
        check_output(args, "--per-class", args.per_class, [args.model, args.data_dir], is_per_class)
    columns, split = locate_subset(args.subset, args.data_dir, args.split) if args.subset else ({}, args.split)
    opened = open_model_and_data(args, split=split, columns=columns)
    chosen = list(columns.values()) or None
    metrics = evaluate_opened(opened, columns=chosen, per_class=args.per_class is not None)
    print(f"timm.create_model('{opened.name}', pretrained=True): {metrics_in_words(metrics)}")
    if args.per_class:
        write_per_class(args.per_class, list(columns) or opened.class_names, metrics)
        print(args.per_class)
    return int(args.min_top1 is not None and metrics["top1"] < args.min_top1)


def add_predict(commands: Any) -> None:
    """Add `predict`."""
    parser = add_command(
        commands,
        "predict",
        "draw test images with the model's predictions",
        f"timm-moex predict resnet20_cifar.fmnist_sample {_SAMPLE}",
    )
    add_model_and_data(parser)
    parser.add_argument(
        "--count", type=positive, default=32, help="number of images, spread over the test set (default: 32)"
    )
    add_output(parser, "--output", default="predictions.png", metavar="FILE", help="default: predictions.png")
    parser.set_defaults(run=_run_predict)


def _run_predict(args: argparse.Namespace) -> None:
    from ..pictures.predictions import prediction_grid
    from ..training.inference import predict_samples

    check_picture(args, "predict", [args.model, args.data_dir])
    opened = open_model_and_data(args)
    print(prediction_grid(*predict_samples(opened, args.count), opened.class_names, args.output))
