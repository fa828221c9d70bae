"""Build parts of messages, and print messages in a way that cannot fail."""

import difflib
import os
import re
import reprlib
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

__all__ = ["did_you_mean", "in_words", "machine_trouble", "one_line", "say", "short_repr"]

# Errors caused by the machine or the data although their type suggests a bug, each with advice
_TROUBLE = {
    r"MemoryError|DefaultCPUAllocator": "out of memory: try a smaller batch size",
    r"DataLoader worker .* is killed by signal: (Killed|Bus error)": "memory may have run out: try fewer workers",
    r"DataLoader worker .*(is killed by signal|exited unexpectedly)": "another process may have killed it",
    r"shared memory|unable to (open|write|mmap|resize).*(/torch_|shm)": (
        "the workers need more shared memory for images: increase it (docker: --shm-size) or set workers=0"
    ),
    r"exceeds limit of \d+ pixels, could be decompression bomb": "resize or remove the image",
}

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 12
_SHORT.maxlevel = 3


def did_you_mean(word: Any, words: Iterable[Any], cutoff: float = 0.6) -> str:
    """Suggest the nearest right spelling; return "" if no word has a similarity of `cutoff`, from 0 to 1.

    Example:
        >>> did_you_mean("resnet5O", ["resnet18", "resnet50"])
        "; did you mean 'resnet50'?"
    """
    near = difflib.get_close_matches(str(word)[:200], [str(w) for w in words if w], 1, cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""


def short_repr(value: Any) -> str:
    """Shorten the `repr` of a value from a file: a few lines of YAML can expand to gigabytes.

    Example:
        >>> short_repr([1, 2]), len(short_repr("a" * 1000))
        ('[1, 2]', 200)
    """
    return _SHORT.repr(value)


def one_line(error: BaseException) -> str:
    r"""Put an error's message on one line; for an error in a data loader's worker, use the worker's message.

    Example:
        >>> one_line(ValueError("first\nsecond"))
        'first second'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any(line.startswith("Traceback (most recent call last)") or "Original Traceback" in line for line in lines):
        lines = [lines[-1].partition(": ")[2] or lines[-1]]
    return " ".join(lines)[:2000] or type(error).__name__


def in_words(seconds: float) -> str:
    """Format a duration with the precision of an estimate.

    Example:
        >>> in_words(50), in_words(800), in_words(9000)
        ('50 s', '13 min', '2 h 30 min')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def say(line: str) -> None:
    """Print a line and flush. Characters that stdout cannot encode become "?"; if stdout is closed, nothing happens."""
    try:
        print(line, flush=True)
    except UnicodeEncodeError as error:
        print(line.encode(error.encoding, "replace").decode(error.encoding), flush=True)
    except (OSError, ValueError):  # a closed pipe, a full disk, a closed file
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def machine_trouble(error: BaseException) -> str | None:
    """Explain an error on one line if the machine or the data caused it; return None if it may be a bug.

    Example:
        >>> machine_trouble(RuntimeError("DataLoader worker (pid 7) exited unexpectedly"))
        'DataLoader worker (pid 7) exited unexpectedly; another process may have killed it'
        >>> machine_trouble(RuntimeError("shapes differ")) is None
        True
    """
    cause: BaseException | None = error
    while cause is not None:
        for words, remedy in _TROUBLE.items():
            if re.search(words, f"{type(cause).__name__}: {cause}", re.DOTALL):
                return f"{one_line(cause).rstrip('. ')}; {remedy}"
        cause = cause.__cause__
    return None
