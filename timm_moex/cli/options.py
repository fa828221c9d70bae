"""Options that several subcommands share, and the functions that read them."""

import argparse
import math
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..training.inference import Inference


__all__ = ["add_command", "add_data_options", "add_model_and_data", "add_skip_unreadable", "add_val_fraction"]
__all__ += ["evaluate_opened", "metrics_in_words", "natural", "open_model_and_data", "percent", "positive", "share"]


def add_command(commands: Any, name: str, help: str, *examples: str, **kwargs: Any) -> argparse.ArgumentParser:
    """Add a subcommand whose help ends with examples.

    Args:
        commands: The result of `add_subparsers`.
        name: Name of the subcommand.
        help: One line that says what the subcommand does.
        *examples: Command lines, each shown on its own line.
        **kwargs: Further arguments of `ArgumentParser`.
    """
    shown = "\n".join(f"  {example}" for example in examples)
    description = kwargs.pop("description", f"{help[0].upper()}{help[1:]}.")
    return commands.add_parser(
        name,
        help=help,
        description=textwrap.fill(description, 78),
        epilog=f"example{'s' * (len(examples) > 1)}:\n{shown}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **kwargs,
    )


def add_model_and_data(parser: argparse.ArgumentParser) -> None:
    """Add the options that `open_model_and_data` reads."""
    parser.add_argument("model", help="a folder that timm can load (…/hub), or the name of a model")
    add_data_options(parser)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the images and how to read them."""
    parser.add_argument("--data-dir", metavar="DIR", help="the data folder")
    parser.add_argument("--dataset", default="", help="timm's name of the dataset (default: a folder of images)")
    parser.add_argument("--split", default="validation", help="part of the data (default: validation)")
    parser.add_argument(
        "--ignore-label-names", action="store_true", help="match classes by their order instead of their names"
    )
    parser.add_argument("--group-folders", action="store_true", help="DIR contains folders GROUP/CLASS")
    add_val_fraction(parser)
    parser.add_argument("--batch-size", type=positive, default=256)
    parser.add_argument("--workers", type=natural, default=0)
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, …")
    add_skip_unreadable(parser)


def add_val_fraction(parser: argparse.ArgumentParser) -> None:
    """Add the option that holds out a part of a folder without an evaluation split."""
    parser.add_argument(
        "--val-fraction",
        type=share,
        metavar="X",
        help="share of each class, such as 0.2, to hold out for evaluation if the data have no evaluation folder",
    )


def add_skip_unreadable(parser: argparse.ArgumentParser) -> None:
    """Add the option that skips unreadable images."""
    parser.add_argument("--skip-unreadable", action="store_true", help="skip images that cannot be read")


def positive(text: str) -> int:
    """Convert an option's text to an integer of at least 1."""
    return _integer(text, 1)


def natural(text: str) -> int:
    """Convert an option's text to an integer of at least 0."""
    return _integer(text, 0)


def _integer(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number") from error
    if value < least:
        raise argparse.ArgumentTypeError(f"{text}: expected at least {least}")
    return value


def share(text: str) -> float:
    """Convert an option's text to a number above 0 and below 1."""
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0 and below 1") from error
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0 and below 1")
    return value


def percent(text: str) -> float:
    """Convert an option's text to a number from 0 to 100."""
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 to 100") from error
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 0 to 100")
    return value


def open_model_and_data(args: argparse.Namespace, **overrides: Any) -> "Inference":
    """Open the model and the data that the options of `add_model_and_data` name."""
    from ..training.inference import open_inference

    keys = ("dataset", "split", "batch_size", "workers", "device", "skip_unreadable")
    chosen = {key: getattr(args, key) for key in (*keys, "group_folders", "ignore_label_names")}
    chosen["val_fraction"] = args.val_fraction or 0.0
    opened = open_inference(args.model, args.data_dir, **chosen | overrides)
    if opened.ignored:
        print(opened.ignored)
    if opened.unreadable:
        print(f"skipped {len(opened.unreadable)} images that cannot be read, such as {opened.unreadable[0]}")
    return opened


def evaluate_opened(opened: "Inference", **kwargs: Any) -> dict[str, Any]:
    """Evaluate the result of `open_model_and_data`.

    Raises:
        FloatingPointError: The loss is not finite, which makes top-1 meaningless.
    """
    from ..training.evaluate import evaluate

    metrics = evaluate(opened.model, opened.loader, opened.device, groups=opened.groups, **kwargs)
    if not math.isfinite(metrics["loss"]):
        raise FloatingPointError(f"{opened.name}: the loss is {metrics['loss']}; weights or images may contain nan")
    return metrics


def metrics_in_words(metrics: dict[str, Any]) -> str:
    """Format the metrics of `evaluate` as one line."""
    top1, top5, loss, count = (metrics[key] for key in ("top1", "top5", "loss", "count"))
    line = f"top-1 {top1:.2f}, top-5 {top5:.2f}, loss {loss:.4f}, {count} images"
    groups = ", ".join(f"{name} {value:.2f}" for name, value in metrics.get("top1_by_group", {}).items())
    return line + (f"; top-1 by group: {groups}" if groups else "")
