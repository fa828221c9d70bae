"""Handle `--help`, `--version` and wrong options before PyTorch is imported, which takes seconds.

`timm_moex/__init__.py` imports this module first. If this process is `timm-moex` or `python -m timm_moex`, the module
parses the command line, which exits in these three cases. Otherwise it does nothing.
"""

import sys
from pathlib import Path

from . import make_parser

__all__ = ["is_command_line"]


def is_command_line(argv: list[str], orig_argv: list[str]) -> bool:
    """Whether a process is `timm-moex` or `python -m timm_moex`.

    Args:
        argv: The process's `sys.argv`. It begins with "-m" while Python looks for the module to run.
        orig_argv: The process's `sys.orig_argv`, which also contains the module's name.

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


if is_command_line(sys.argv, sys.orig_argv):
    make_parser().parse_args()
