"""`timm-moex eval` and `timm-moex predict`: run a saved model on a test set."""

import math
from typing import TYPE_CHECKING, Any

from .options import DATA_OPTIONS, check_output, command, number, option, output_options, positive
from .pictures import check_picture

if TYPE_CHECKING:
    from ..training.inference import Inference

__all__ = ["evaluate_model", "evaluate_opened", "metrics_in_words", "open_model_and_data", "predict"]

_PERCENT = number(float, "from 0 to 100", lambda value: 0 <= value <= 100)
_MODEL = option("model", help="a folder that timm can load (…/hub), or the name of a model")
_SAMPLE = 'resnet20_cifar.fmnist_sample --dataset torch/fashion_mnist --data-dir "$(timm-moex sample)"'


@command(
    "eval",
    _MODEL,
    *DATA_OPTIONS,
    option("--min-top1", type=_PERCENT, metavar="TOP1", help="exit with code 1 if top-1 is lower"),
    option("--subset", metavar="SET", help="imagenet-a or imagenet-r, if DIR contains its 200 synset folders"),
    *output_options("--per-class", metavar="FILE.csv", help="write image count and top-1 of each class to this file"),
    examples=[
        f"timm-moex eval {_SAMPLE}",
        "timm-moex eval output/my_run/hub --data-dir FOLDER --per-class classes.csv",
    ],
)
def evaluate_model(
    model: str,
    data_dir: str | None,
    split: str,
    min_top1: float | None,
    subset: str | None,
    per_class: str | None,
    overwrite: bool,
    **options: Any,
) -> int:
    """Print top-1, top-5 and loss of a model."""
    from ..training.evaluate import is_per_class, write_per_class
    from ..training.inference import locate_subset

    if per_class:
        check_output("--per-class", per_class, overwrite, [model, data_dir], is_per_class)
    columns, split = locate_subset(subset, data_dir, split) if subset else ({}, split)
    opened = open_model_and_data(model, data_dir, split=split, columns=columns, **options)
    metrics = evaluate_opened(opened, columns=list(columns.values()) or None, per_class=per_class is not None)
    print(f"timm.create_model('{opened.name}', pretrained=True): {metrics_in_words(metrics)}")
    if per_class:
        write_per_class(per_class, list(columns) or opened.class_names, metrics)
        print(per_class)
    return int(min_top1 is not None and metrics["top1"] < min_top1)


@command(
    "predict",
    _MODEL,
    *DATA_OPTIONS,
    option("--count", type=positive, default=32, help="number of images, spread over the test set (default: 32)"),
    *output_options("--output", default="predictions.png", metavar="FILE", help="picture (default: predictions.png)"),
    examples=[f"timm-moex predict {_SAMPLE}"],
)
def predict(model: str, data_dir: str | None, count: int, output: str, overwrite: bool, **options: Any) -> None:
    """Draw test images with the model's predictions."""
    from ..pictures.predictions import prediction_grid
    from ..training.inference import predict_samples

    check_picture("predict", output, overwrite, [model, data_dir])
    opened = open_model_and_data(model, data_dir, **options)
    print(prediction_grid(*predict_samples(opened, count), opened.class_names, output))


def open_model_and_data(model: str, data_dir: str | None, val_fraction: float | None, **options: Any) -> "Inference":
    """Open a model and the data that `DATA_OPTIONS` name, and print which files are skipped."""
    from ..training.inference import open_inference

    opened = open_inference(model, data_dir, val_fraction=val_fraction or 0.0, **options)
    if opened.ignored:
        print(opened.ignored)
    if opened.unreadable:
        print(f"skipped {len(opened.unreadable)} images that cannot be read, such as {opened.unreadable[0]}")
    return opened


def evaluate_opened(opened: "Inference", **options: Any) -> dict[str, Any]:
    """Evaluate the result of `open_model_and_data`. Raise if the loss is not finite: top-1 is then meaningless."""
    from ..training.evaluate import evaluate

    metrics = evaluate(opened.model, opened.loader, opened.device, groups=opened.groups, **options)
    if not math.isfinite(metrics["loss"]):
        raise FloatingPointError(f"{opened.name}: the loss is {metrics['loss']}; weights or images may contain nan")
    return metrics


def metrics_in_words(metrics: dict[str, Any]) -> str:
    """Format the metrics of `evaluate` as one line."""
    line = "top-1 {top1:.2f}, top-5 {top5:.2f}, loss {loss:.4f}, {count} images".format(**metrics)
    groups = ", ".join(f"{name} {value:.2f}" for name, value in metrics.get("top1_by_group", {}).items())
    return line + (f"; top-1 by group: {groups}" if groups else "")
