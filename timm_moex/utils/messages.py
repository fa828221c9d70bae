"""The end of an error message about a misspelt name."""

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = ["nearest"]


def nearest(word: Any, words: Iterable[Any], cutoff: float = 0.6) -> str:
    """ "; did you mean 'x'?", or nothing where no word is near.

    Args:
        word: What was given.
        words: The right spellings.
        cutoff: How alike they must be, from 0 to 1; lower for words of few letters.
    """
    near = difflib.get_close_matches(str(word), [str(w) for w in words if w], 1, cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""
