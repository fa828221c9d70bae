"""Declare subcommands and their shared options, and convert the texts of options to values."""

import argparse
import os
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["DATA_OPTIONS", "VAL_FRACTION", "check_output", "command", "flag", "number", "option", "output_options"]
__all__ += ["path", "positive"]

Option: TypeAlias = tuple[tuple[str, ...], dict[str, Any]]  # the arguments of `ArgumentParser.add_argument`
Adder: TypeAlias = Callable[[Any], None]


def command(
    name: str, *options: Option, examples: Sequence[str], early: Callable[..., bool | None] | None = None
) -> Callable[[Callable[..., Any]], Adder]:
    """Turn a function into a subcommand, which is called with the values of `options` and may return an exit code.

    The docstring of the function is the help of the subcommand, together with `examples`. The result of the decorator
    adds the subcommand to the result of `add_subparsers`.

    `early` is called with the same values before PyTorch is imported. It raises a ValueError if the values are wrong,
    and returns True if the subcommand does not need PyTorch.
    """

    def decorate(run: Callable[..., Any]) -> Adder:
        words = run.__doc__ or name  # python -OO removes docstrings
        summary = words.partition("\n")[0].rstrip(".")

        def add(commands: Any) -> None:
            parser = commands.add_parser(
                name,
                help=summary[0].lower() + summary[1:],
                description=textwrap.fill(" ".join(words.split()), 78),
                epilog="\n  ".join([f"example{'s' * (len(examples) > 1)}:", *examples]),
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            for names, settings in options:
                default_type = {} if names[0].startswith("-") else {"type": path}  # a name of a model passes unchanged
                parser.add_argument(*names, **default_type | settings)
            parser.set_defaults(run=run, early=early or (lambda **values: False))

        return add

    return decorate


def option(*names: str, **settings: Any) -> Option:
    """Return an option or a positional argument."""
    return names, settings


def flag(name: str, help: str, **settings: Any) -> Option:
    """Return an option without a value."""
    return option(name, action="store_true", help=help, **settings)


def number(kind: Callable[[str], float], expected: str, is_valid: Callable[[Any], bool]) -> Callable[[str], float]:
    """Return a function that converts an option's text to an `int` or `float` in a range."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError as error:
            what = "an integer" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r}: expected {what}, {expected}") from error
        if not is_valid(value):
            raise argparse.ArgumentTypeError(f"{text}: expected {expected}")
        return value

    return convert


positive = number(int, "at least 1", lambda value: value >= 1)
_COUNT = number(int, "at least 0", lambda value: value >= 0)


def path(text: str) -> str:
    """Convert an option's text to a path, expanding ~ to the home folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; it may contain an unset shell variable")
    return os.path.expanduser(text)


VAL_FRACTION = option(
    "--val-fraction",
    type=number(float, "above 0 and below 1", lambda value: 0 < value < 1),
    metavar="X",
    help="share of each class, such as 0.2, to hold out for evaluation if the data have no evaluation folder",
)
DATA_OPTIONS = (  # the arguments of `open_inference`
    option("--data-dir", type=path, metavar="DIR", help="the data folder"),
    option("--dataset", default="", help="timm's name of the dataset (default: a folder of images)"),
    option("--split", default="validation", help="part of the data (default: validation)"),
    flag("--ignore-label-names", "match classes by their order instead of their names"),
    flag("--group-folders", "DIR contains GROUP/CLASS folders"),
    VAL_FRACTION,
    option("--batch-size", type=positive, default=256, metavar="N", help="images per batch (default: 256)"),
    option("--workers", type=_COUNT, default=0, metavar="N", help="processes that load data (default: 0)"),
    option("--device", default="cpu", help="cpu (default), cuda, …"),
    flag("--skip-unreadable", "skip images that cannot be read"),
)


def output_options(name: str, **settings: Any) -> tuple[Option, Option]:
    """Return an option for an output file, and --overwrite."""
    return option(name, type=path, **settings), flag("--overwrite", f"let {name} replace any existing file")


def check_output(
    name: str, output: str, overwrite: bool, inputs: Iterable[str | None], is_ours: Callable[[Path], bool]
) -> None:
    """Check, before the work starts, that writing `output` destroys nothing; `name` is the option that names it.

    `inputs` are the files and folders that the command reads, or names of models. Files for which `is_ours` is true
    were written by the same command, which may replace them.
    """
    real = Path(os.path.realpath(output))
    for given in inputs:
        read = Path(os.path.realpath(given.removeprefix("local-dir:"))) if given else None
        if read and read.exists() and (real == read or read in real.parents):
            where = "is" if real == read else "is inside"
            raise ValueError(f"{name} {output} {where} {given}, which this command reads; choose another file")
    if real.is_dir():
        raise FileExistsError(f"{name} {output} is a folder")
    if real.exists() and not overwrite and not is_ours(real):
        raise FileExistsError(f"{name} {output} exists and was not written by this command; use --overwrite")
