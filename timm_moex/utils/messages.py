"""Pieces of messages, and a way to print them that cannot end the work they are about."""

import difflib
import os
import re
import reprlib
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

__all__ = ["in_words", "machine_trouble", "nearest", "one_line", "say", "short_repr"]

# Words of errors whose cause is the machine or the data, though their type is that of a defect, and what helps
_TROUBLE = {
    r"DataLoader worker .* is killed by signal: (Killed|Bus error)": "memory may have run out: fewer workers may fit",
    r"DataLoader worker .*(is killed by signal|exited unexpectedly)": "another process may have ended it",
    r"shared memory|unable to (open|write|mmap|resize).*(/torch_|shm)": (
        "there is no space for shared memory, in which workers hand over images: more of it (docker: --shm-size), or "
        "workers=0"
    ),
    r"exceeds limit of \d+ pixels, could be decompression bomb": "make the image smaller",
}

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


def in_words(seconds: float) -> str:
    """Put a time into words, as exact as an estimate can be.

    Example:
        >>> in_words(50), in_words(800), in_words(9000)
        ('50 s', '13 min', '2 h 30 min')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def say(line: str) -> None:
    """Print a line at once. What stdout cannot encode becomes "?"; once nobody reads stdout any more, lines are lost.

    Example:
        >>> say("epoch 1/5")
        epoch 1/5
    """
    try:
        print(line, flush=True)
    except UnicodeEncodeError as error:
        print(line.encode(error.encoding, "replace").decode(error.encoding), flush=True)
    except (OSError, ValueError):  # a reader that has gone, a full disk, a closed file
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def machine_trouble(error: BaseException) -> str | None:
    """Put an error on one line if the user's machine or data caused it, although its type is that of a defect.

    Example:
        >>> machine_trouble(RuntimeError("DataLoader worker (pid 7) exited unexpectedly"))
        'DataLoader worker (pid 7) exited unexpectedly; another process may have ended it'
        >>> machine_trouble(RuntimeError("shapes differ")) is None
        True
    """
    cause: BaseException | None = error
    while cause is not None:
        for words, remedy in _TROUBLE.items():
            if re.search(words, str(cause), re.DOTALL):
                return f"{one_line(cause).rstrip('. ')}; {remedy}"
        cause = cause.__cause__
    return None
