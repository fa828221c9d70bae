"""Run one of timm's own scripts with the twins registered: `python -m timm_moex.script validate.py --model moex_…`.

validate.py, inference.py, onnx_export.py, benchmark.py and others know a `moex_` model only once this package has been
imported. The script itself is run unmodified, as `python validate.py …` would run it. train.py does not need this: its
`--device-modules timm_moex.plugin` imports the package. Stock names, such as those of saved folders, need nothing.
"""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import timm_moex  # noqa: F401  registers the twins

from .utils.messages import nearest

__all__ = ["find_script", "run_script"]

_USAGE = "usage: python -m timm_moex.script SCRIPT.py [ARGUMENTS OF THE SCRIPT]"


def find_script(word: str) -> Path:
    """Check that there is a script of this name.

    Args:
        word: Its path.

    Raises:
        FileNotFoundError: There is no such file; the message has the nearest name in its folder.
        IsADirectoryError: It is a folder.

    Example:
        >>> find_script("no/such/script.py")
        Traceback (most recent call last):
        ...
        FileNotFoundError: no/such/script.py: there is no such script
    """
    path = Path(word)
    if path.is_dir():
        raise IsADirectoryError(f"{word}: is a folder; name a script in it")
    if not path.is_file():
        there = [other.name for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise FileNotFoundError(f"{word}: there is no such script{nearest(path.name, there)}")
    return path


def run_script(words: Sequence[str]) -> int:
    """Run a script as Python does: its folder comes first in `sys.path`, `sys.argv` is the script's own.

    Args:
        words: The script and its arguments.

    Returns:
        0, or 2 where there is no such script; the script's own exit code and errors pass through.

    Example:
        >>> run_script(["--help"])  # doctest: +ELLIPSIS
        usage: python -m timm_moex.script SCRIPT.py [ARGUMENTS OF THE SCRIPT]
        ...
        0
    """
    if not words or words[0] in ("-h", "--help"):
        print(f"{_USAGE}\n\n{__doc__}", file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    try:
        path = find_script(words[0])
    except OSError as error:
        print(f"timm_moex.script: error: {error}", file=sys.stderr)
        return 2
    sys.argv = list(words)
    sys.path[0] = str(path.resolve().parent)  # python -m has put the current folder there
    runpy.run_path(str(path), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(sys.argv[1:]))
