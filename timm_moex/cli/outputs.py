"""Files that a subcommand writes: what they may replace."""

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

__all__ = ["add_output", "check_output", "check_picture", "path"]


def path(text: str) -> str:
    """Convert an option's text to a path, in which ~ is the home folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; a shell variable in it may be unset")
    return os.path.expanduser(text)


def add_output(parser: argparse.ArgumentParser, option: str, **kwargs: Any) -> None:
    """Add the option of a file to write, and --overwrite."""
    parser.add_argument(option, type=path, **kwargs)
    parser.add_argument("--overwrite", action="store_true", help=f"let {option} replace a file of any origin")


def check_output(
    args: argparse.Namespace, option: str, output: str, inputs: Iterable[str | None], is_ours: Callable[[Path], bool]
) -> None:
    """Check that writing a file loses nothing, before the work that leads to it.

    Args:
        args: With `overwrite`.
        option: The option that names the file, for the message.
        output: The file.
        inputs: Files and folders that the command reads; those that do not exist are names of models.
        is_ours: Whether an existing file is an earlier output of the same command.

    Raises:
        ValueError: The file is an input or is inside one.
        FileExistsError: The file exists, and neither the same command nor the user wants it replaced.
    """
    real = Path(os.path.realpath(output))
    for given in inputs:
        read = Path(os.path.realpath(given.removeprefix("local-dir:"))) if given else None
        if read and read.exists() and (real == read or read in real.parents):
            where = "is" if real == read else "is inside"
            raise ValueError(f"{option} {output} {where} {given}, which this command reads; choose another file")
    if real.is_dir():
        raise FileExistsError(f"{option} {output} is a folder")
    if real.exists() and not args.overwrite and not is_ours(real):
        raise FileExistsError(f"{option} {output} exists and is not from this command; --overwrite replaces it")


def check_picture(args: argparse.Namespace, command: str, inputs: Iterable[str | None] = ()) -> None:
    """`check_output` for the picture `args.output` of a subcommand.

    Raises:
        ImportError, ValueError, FileNotFoundError: See `check_picture_path`.
        ValueError, FileExistsError: See `check_output`.
    """
    from ..pictures.figure import check_picture_path, is_picture_by

    check_picture_path(args.output)
    check_output(args, "--output", args.output, inputs, lambda file: is_picture_by(file, f"timm-moex {command}"))
