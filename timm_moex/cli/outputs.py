"""Output files of the subcommands, and which existing files they may replace."""

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

__all__ = ["add_output", "check_output", "check_picture", "path"]


def path(text: str) -> str:
    """Convert an option's text to a path, expanding ~ to the home folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; it may contain an unset shell variable")
    return os.path.expanduser(text)


def add_output(parser: argparse.ArgumentParser, option: str, **kwargs: Any) -> None:
    """Add an option for an output file, and --overwrite."""
    parser.add_argument(option, type=path, **kwargs)
    parser.add_argument("--overwrite", action="store_true", help=f"let {option} replace any existing file")


def check_output(
    args: argparse.Namespace, option: str, output: str, inputs: Iterable[str | None], is_ours: Callable[[Path], bool]
) -> None:
    """Check, before the work starts, that writing a file destroys nothing.

    Args:
        args: Parsed options, with `overwrite`.
        option: The option that names the file, for the message.
        output: The file to write.
        inputs: Files and folders that the command reads. Words that are not paths are names of models.
        is_ours: Whether an existing file was written by the same command.

    Raises:
        ValueError: The file is one of the inputs, or is inside one.
        FileExistsError: The file exists, was not written by this command, and `overwrite` is not set.
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
        raise FileExistsError(
            f"{option} {output} exists and was not written by this command; use --overwrite to replace it"
        )


def check_picture(args: argparse.Namespace, command: str, inputs: Iterable[str | None] = ()) -> None:
    """Run `check_output` on the picture `args.output` of a subcommand.

    Raises:
        ImportError, ValueError, FileNotFoundError: See `check_picture_path`.
        ValueError, FileExistsError: See `check_output`.
    """
    from ..pictures.figure import check_picture_path, is_picture_by

    check_picture_path(args.output)
    check_output(args, "--output", args.output, inputs, lambda file: is_picture_by(file, f"timm-moex {command}"))
