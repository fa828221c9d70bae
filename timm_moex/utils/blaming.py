"""Errors of a library about a value that a user gave it, told apart from defects of this package."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .messages import one_line

__all__ = ["blaming", "is_from_this_package"]

_PACKAGE = str(Path(__file__).parents[1])


@contextmanager
def blaming(what: str, kind: type[Exception]) -> Iterator[None]:
    """Name the user's value in whatever a library raises about it, where that value meets the library.

    timm and torch check little of what they are given: a wrong value ends as an AssertionError, a KeyError or a
    TypeError somewhere inside. What this package's own lines raise keeps its type, for it may be a defect, unless it is
    the TypeError or ValueError with which they refuse an argument.

    Args:
        what: The value, such as "opt_kwargs: {'foo': 1}", with which the message begins.
        kind: The error to raise.

    Example:
        >>> import json
        >>> with blaming("config.json", ValueError):
        ...     json.loads(None)
        Traceback (most recent call last):
        ...
        ValueError: config.json: TypeError: the JSON object must be str, bytes or bytearray, not NoneType
    """
    try:
        yield
    except kind:
        raise
    except Exception as error:  # of any type, since the library was not written for this value
        is_ours = is_from_this_package(error)
        if is_ours and not isinstance(error, (TypeError, ValueError)):
            raise
        reason = one_line(error) if is_ours else f"{type(error).__name__}: {one_line(error)}"
        raise kind(f"{what}: {reason}") from error


def is_from_this_package(error: BaseException) -> bool:
    """Whether a line of this package raised an error itself.

    Example:
        >>> is_from_this_package(ValueError("raised nowhere"))
        False
    """
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(_PACKAGE)
