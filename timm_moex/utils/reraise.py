"""Attribute a library's error to the user's value, and tell it apart from a bug in this package."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .messages import one_line

__all__ = ["reraise_as"]

_PACKAGE = str(Path(__file__).parents[1])


@contextmanager
def reraise_as(kind: type[Exception], what: str) -> Iterator[None]:
    """Raise any error of a library as `kind`, with a message that begins with the user's value, `what`.

    timm and torch check few of their arguments: a wrong value surfaces as an AssertionError, KeyError or
    TypeError deep inside them. Errors raised by this package's own code keep their type, because they may be bugs,
    except TypeError and ValueError, which reject an argument.

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
        is_ours = traceback.extract_tb(error.__traceback__)[-1].filename.startswith(_PACKAGE)
        if is_ours and not isinstance(error, (TypeError, ValueError)):
            raise
        reason = one_line(error) if is_ours else f"{type(error).__name__}: {one_line(error)}"
        raise kind(f"{what}: {reason}") from error
