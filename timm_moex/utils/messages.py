"""Pieces of error messages."""

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

__all__ = ["nearest", "one_line", "short_repr"]

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 12
_SHORT.maxlevel = 3


def nearest(word: Any, words: Iterable[Any], cutoff: float = 0.6) -> str:
    """Suggest the nearest right spelling, or nothing where no word is near.

    Args:
        word: What was given.
        words: The right spellings.
        cutoff: How alike they must be, from 0 to 1; lower for words of few letters.

    Example:
        >>> nearest("resnet5O", ["resnet18", "resnet50"])
        "; did you mean 'resnet50'?"
    """
    near = difflib.get_close_matches(str(word)[:200], [str(w) for w in words if w], 1, cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""


def short_repr(value: Any) -> str:
    """Shorten the `repr` of a value that came out of a file: a few lines of YAML can stand for gigabytes.

    Example:
        >>> short_repr([1, 2]), len(short_repr("a" * 1000))
        ('[1, 2]', 200)
    """
    return _SHORT.repr(value)


def one_line(error: BaseException) -> str:
    r"""Put the message of an error on one line; for an error of a data loader's worker, the worker's own message.

    Example:
        >>> one_line(ValueError("first\nsecond"))
        'first second'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any(line.startswith("Traceback (most recent call last)") or "Original Traceback" in line for line in lines):
        lines = [lines[-1].partition(": ")[2] or lines[-1]]
    return " ".join(lines)[:2000] or type(error).__name__
