"""Command line: `timm-moex` or `python -m timm_moex`. Each module adds and runs a group of subcommands.

PyTorch is imported only in the functions that run a subcommand, so that help and option errors appear immediately.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from ..utils.messages import machine_trouble, one_line
from ..version import __version__
from .compare import add_compare
from .evaluate import add_eval, add_predict
from .hub import add_convert, add_publish, add_verify
from .models import add_list, add_sites
from .pictures import add_curves, add_show
from .recipe import add_recipe
from .train import add_sample, add_train

__all__ = ["main", "make_parser"]

_DEFECT = 70  # EX_SOFTWARE in BSD's sysexits.h; distinguishes an internal error from exit codes 1 and 2


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
        args = make_parser().parse_args(argv)
        code = args.run(args) or 0
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
    """Keep output from failing: replace a closed stream by /dev/null, and unsupported characters by "?"."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif name == "stdout" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _explain(error: Exception) -> int:
    """Print what went wrong, and return the exit code."""
    from ..hub.download import HubError
    from ..utils.devices import is_out_of_memory

    if is_out_of_memory(error):
        print(f"timm-moex: error: out of memory: {one_line(error)}; a smaller batch may fit", file=sys.stderr)
        return 2
    trouble = machine_trouble(error)
    # These messages are written for the user: they are about the arguments or the machine
    if trouble or isinstance(error, (ValueError, OSError, ImportError, FloatingPointError, HubError)):
        print(f"timm-moex: error: {trouble or one_line(error)}", file=sys.stderr)
        return 2
    traceback.print_exception(error)
    request = f"timm-moex: this is a bug in timm_moex; please report it with the lines above ({_versions()})"
    print(request, file=sys.stderr)
    return _DEFECT


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("timm", "torch"))


class _Parser(argparse.ArgumentParser):
    """An argparse parser that reports a wrong word in one line, like every other error."""

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
    looking = (add_list, add_recipe, add_sites, add_sample)
    working = (add_train, add_compare, add_eval, add_predict, add_show, add_curves)
    for add in (*looking, *working, add_verify, add_publish, add_convert):
        add(commands)
    return parser
