"""Attribute a library's error to the user's value, and tell it apart from a bug in this package."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .messages import one_line

__all__ = ["is_from_this_package", "reraise_as"]

_PACKAGE = str(Path(__file__).parents[1])


@contextmanager
def reraise_as(kind: type[Exception], what: str) -> Iterator[None]:
    """Raise any error of a library as `kind`, with a message that names the user's value.

    timm and torch check few of their arguments: a wrong value ends as an AssertionError, KeyError or TypeError
    somewhere inside. Errors raised by this package's own code keep their type, because they may be bugs. The exceptions
    are TypeError and ValueError, which reject an argument.

    Args:
        kind: The error to raise.
        what: Start of the message, with the value, such as "opt_kwargs: {'foo': 1}".

    Example:
        >>> import json
        >>> with reraise_as(ValueError, "config.json"):
        ...     json.loads(None)
        Traceback (most recent call last):
        ...
        ValueError: config.json: TypeError: the JSON object must be str, bytes or bytearray, not NoneType
    """
    try:
        yield
    except kind:
        raise
    except Exception as error:  # any type: the library does not expect this value
        is_ours = is_from_this_package(error)
        if is_ours and not isinstance(error, (TypeError, ValueError)):
            raise
        reason = one_line(error) if is_ours else f"{type(error).__name__}: {one_line(error)}"
        raise kind(f"{what}: {reason}") from error


def is_from_this_package(error: BaseException) -> bool:
    """Return whether this package's own code raised an error.

    Example:
        >>> is_from_this_package(ValueError("raised nowhere"))
        False
    """
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(_PACKAGE)
