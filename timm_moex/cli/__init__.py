"""The command line: `timm-moex` or `python -m timm_moex`. Each module here adds and runs a group of subcommands."""

import argparse
import os
import sys
from collections.abc import Sequence

import timm
import torch

from .. import __version__
from ..hub.download import HubError
from ..utils.messages import one_line
from .evaluate import add_eval, add_predict
from .hub import add_convert, add_publish, add_verify
from .models import add_list, add_sites
from .pictures import add_curves, add_show
from .train import add_sample, add_train

__all__ = ["main"]

_OUR_ERRORS = (ValueError, OSError, ImportError, FloatingPointError, HubError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: The words after the program's name; default those of the process.

    Returns:
        0; 1 where a demanded accuracy was missed, 2 after an error, which is one line on stderr, 130 after Ctrl-C.
    """
    args = _parser().parse_args(argv)
    try:
        code = args.run(args) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `timm-moex list | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except _OUR_ERRORS as error:
        print(f"timm-moex: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("timm-moex: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "timm-moex",
        description="Moment Exchange for timm: train, evaluate, look.",
        epilog="`timm-moex COMMAND --help` has the command's options and an example.",
    )
    versions = f"timm-moex {__version__}, timm {timm.__version__}, torch {torch.__version__}"
    parser.add_argument("--version", action="version", version=versions)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        add_list, add_sites, add_sample, add_train, add_eval, add_predict, add_show, add_curves,
        add_verify, add_publish, add_convert
    ):  # fmt: skip
        add(commands)
    return parser
