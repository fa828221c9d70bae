"""Ranges of recipe values, written as in mathematics: "[0, 1)", or "2 ascending in (0, 1]" for a list."""

import re
from dataclasses import dataclass
from typing import Any

__all__ = ["Range", "parse_range"]

_SPELLING = re.compile(
    r"(?:(?P<count>\d+(?: or \d+)?) )?(?:(?P<ascending>ascending) )?(?:in )?"
    r"(?P<open>[\[(])(?P<low>[^,]+), (?P<high>[^\])]+)(?P<close>[\])])"
)
_INFINITY = float("inf")


@dataclass(frozen=True)
class Range:
    """The values that a key may have.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        low_included: Whether `low` itself is allowed.
        high_included: Likewise of `high`.
        counts: How many values a list may hold; empty for any number but none.
        ascending: Whether a list's values must grow, equal neighbours allowed.
    """

    low: float
    high: float
    low_included: bool
    high_included: bool
    counts: tuple[int, ...] = ()
    ascending: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a number, or each of a list's numbers, is in the range; nan never is.

        Example:
            >>> parse_range("[0, 1)").holds(1.0), parse_range("2 ascending in (0, inf)").holds([0.5, 2])
            (False, True)
        """
        if not isinstance(value, (list, tuple)):
            above = self.low <= value if self.low_included else self.low < value
            below = value <= self.high if self.high_included else value < self.high
            return above and below
        fits = len(value) in self.counts if self.counts else bool(value)
        is_sorted = not self.ascending or all(left <= right for left, right in zip(value, value[1:]))
        return fits and all(self.holds(item) for item in value) and is_sorted

    def describe(self, of_list: bool = False) -> str:
        """The range as words for an error message.

        Args:
            of_list: Whether the key takes a list.

        Example:
            >>> parse_range("[1, inf)").describe(), parse_range("2 ascending in (0, 1]").describe(of_list=True)
            ('at least 1', '2 ascending values, each above 0 and at most 1')
        """
        words = self._describe_bounds()
        if not of_list:
            return f"a number {words}" if words.startswith("from") else words
        count = " or ".join(map(str, self.counts)) + " " if self.counts else "one or more "
        return f"{count}{'ascending ' if self.ascending else ''}values, each {words}"

    def _describe_bounds(self) -> str:
        low = f"{'at least' if self.low_included else 'above'} {self.low:g}"
        high = f"{'at most' if self.high_included else 'below'} {self.high:.10g}"
        if self.low == -_INFINITY:
            return "a finite number" if self.high == _INFINITY else high
        if self.high == _INFINITY:
            return low
        is_closed = self.low_included and self.high_included
        return f"from {self.low:g} to {self.high:.10g}" if is_closed else f"{low} and {high}"


def parse_range(text: str) -> Range:
    """Parse what stock_keys.yaml says of a key.

    Args:
        text: An interval, for a list with the number of its values and "ascending in" in front where that is demanded.

    Raises:
        ValueError: `text` is spelled otherwise.

    Example:
        >>> parse_range("(0, inf)").holds(float("inf"))
        False
    """
    match = _SPELLING.fullmatch(text)
    if match is None:
        raise ValueError(f"range {text!r}: expected an interval such as '[0, 1)' or '2 ascending in (0, inf)'")
    return Range(
        low=float(match["low"]),
        high=float(match["high"]),
        low_included=match["open"] == "[",
        high_included=match["close"] == "]",
        counts=tuple(int(count) for count in match["count"].split(" or ")) if match["count"] else (),
        ascending=match["ascending"] is not None,
    )
