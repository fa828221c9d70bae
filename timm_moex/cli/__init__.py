"""Command line: `timm-moex` or `python -m timm_moex`.

Importing `timm_moex` imports this module first. If the process is this program, `--help`, `--version`, wrong options
and commands that do not need PyTorch end it here, before it imports PyTorch, which takes seconds.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from ..utils.messages import machine_trouble, one_line
from ..version import __version__
from .evaluate import evaluate_model, predict
from .hub import convert, publish, verify
from .models import list_models, list_sites, print_recipe
from .pictures import curves, show
from .train import compare, sample, train

__all__ = ["is_command_line", "main", "make_parser"]

_LOCAL = (list_models, print_recipe, list_sites, sample, train, compare, evaluate_model, predict, show, curves)
_HUB = (verify, publish, convert)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: The words after the program's name; default: this process's arguments.

    Returns:
        0; 1 if a required accuracy was missed; 2 after an error, printed as one line on stderr; 70 after a bug in
        this package, printed with its traceback; 130 after Ctrl-C.
    """
    _open_streams()
    try:
        args = vars(make_parser().parse_args(argv))
        run, early = args.pop("run"), args.pop("early")
        early(**args)
        code = run(**args) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader has closed the pipe, as in `timm-moex list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("timm-moex: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        from ..training.distributed import is_alone

        code = _explain(error)
        if not is_alone():  # the other processes wait for this one, and its own clean-up might wait for them
            sys.stderr.flush()
            os._exit(code)
        return code


def _open_streams() -> None:
    """Prevent output errors: replace a closed stream with /dev/null, and unsupported characters with "?"."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif name == "stdout" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _explain(error: Exception) -> int:
    """Print what went wrong, and return the exit code."""
    from ..hub.download import HubError

    trouble = machine_trouble(error)
    # These messages are written for the user: they are about the arguments or the machine
    if trouble or isinstance(error, (ValueError, OSError, ImportError, FloatingPointError, HubError)):
        print(f"timm-moex: error: {trouble or one_line(error)}", file=sys.stderr)
        return 2
    traceback.print_exception(error)
    print(f"timm-moex: this is a bug; please report it with the lines above ({_versions()})", file=sys.stderr)
    return 70  # EX_SOFTWARE in BSD's sysexits.h; distinguishes an internal error from exit codes 1 and 2


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("timm", "torch", "huggingface_hub"))


class _Parser(argparse.ArgumentParser):
    """An argparse parser that reports a wrong argument on one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"timm-moex: error: {message} (see {self.prog} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = _Parser(
        "timm-moex",
        description="Moment Exchange for timm: train, evaluate and inspect models.",
        epilog="Run `timm-moex COMMAND --help` for a command's options and an example.",
    )
    parser.add_argument("--version", action="version", version=f"timm-moex {__version__}, {_versions()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (*_LOCAL, *_HUB):
        add(commands)
    return parser


def is_command_line(argv: list[str], orig_argv: list[str]) -> bool:
    """Return whether a process with these `sys.argv` and `sys.orig_argv` is `timm-moex` or `python -m timm_moex`.

    While Python looks for the module to run, `argv` begins with "-m", and only `orig_argv` contains the module's name.

    Example:
        >>> is_command_line(["/usr/bin/timm-moex", "list"], ["python", "/usr/bin/timm-moex", "list"])
        True
        >>> is_command_line(["-m", "list"], ["python", "-m", "timm_moex", "list"])
        True
        >>> is_command_line(["train.py", "--help"], ["python", "train.py", "--help"])
        False
    """
    if argv[:1] == ["-m"]:
        return orig_argv[-len(argv)].removeprefix("-m") == "timm_moex"
    return bool(argv) and Path(argv[0]).name.removesuffix(".exe") in ("timm-moex", "timm-moex-script.py")


def _answer_early() -> None:
    """End the process if its arguments are wrong, or if it can run without PyTorch."""
    args = vars(make_parser().parse_args())
    del args["run"]
    try:
        is_complete = args.pop("early")(**args)
    except (ValueError, OSError) as error:
        print(f"timm-moex: error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    if is_complete:
        sys.exit(main())


if is_command_line(sys.argv, sys.orig_argv):
    _answer_early()
