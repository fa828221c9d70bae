"""Run one of timm's own scripts with the twins registered: `python -m timm_moex.script validate.py --model moex_…`.

validate.py, inference.py, onnx_export.py, benchmark.py and others can create a `moex_` model only if this package has
been imported. The script itself runs unmodified, as with `python validate.py …`. train.py does not need this, because
its option `--device-modules timm_moex.plugin` imports the package. Models with stock names, such as saved folders, load
without it.
"""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import timm_moex  # noqa: F401  registers the twins

from .utils.messages import did_you_mean

__all__ = ["run_script"]

_USAGE = "usage: python -m timm_moex.script SCRIPT.py [ARGUMENTS OF THE SCRIPT]"


def _find_script(word: str) -> Path:
    path = Path(word)
    if path.is_dir():
        raise IsADirectoryError(f"{word}: this is a folder; pass a script inside it")
    if not path.is_file():
        there = [other.name for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise FileNotFoundError(f"{word}: no such script{did_you_mean(path.name, there)}")
    return path


def run_script(words: Sequence[str]) -> int:
    """Run a script as Python does: its folder comes first in `sys.path`, and `sys.argv` holds its arguments.

    Args:
        words: The script and its arguments.

    Returns:
        0, or 2 if the script does not exist. The script's own exit code and errors pass through.

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
        path = _find_script(words[0])
    except OSError as error:
        print(f"timm_moex.script: error: {error}", file=sys.stderr)
        return 2
    sys.argv = list(words)
    sys.path[0] = str(path.resolve().parent)  # replaces the current folder, which python -m put there
    runpy.run_path(str(path), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(sys.argv[1:]))
