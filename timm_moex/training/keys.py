"""The keys of a recipe: their types, ranges and dependencies from stock_keys.yaml, and the check of a value."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..utils.messages import did_you_mean, short_repr

__all__ = ["Key", "Range", "RecipeError", "check_value", "explain_idle", "find_key", "parse_range", "stock_keys"]

_TYPES: dict[str, tuple[Any, str]] = {  # name in stock_keys.yaml → accepted types, and their description
    "str": (str, "a string"),
    "int": (int, "an integer"),
    "float": ((int, float), "a number"),
    "bool": (bool, "true or false"),
    "dict": (dict, "a mapping"),
}
_SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # PyYAML reads 1e-3 and 1.0e3 as strings; train.py converts
_LARGEST_INTEGER, _LARGEST_FLOAT = 2**63 - 1, 3.4e38  # of PyTorch's int64 and float32
_SPELLING = re.compile(
    r"(?:(?P<count>\d+(?: or \d+)?) )?(?:(?P<ascending>ascending) )?(?:in )?"
    r"(?P<open>[\[(])(?P<low>[^,]+), (?P<high>[^\])]+)(?P<close>[\])])"
)


class RecipeError(ValueError):
    """A recipe has an unknown key or an invalid value, or asks for something that the trainer cannot do."""


@dataclass(frozen=True)
class Range:
    """The allowed values of a key: an interval; for a list, also the allowed lengths (default: all but 0) and order."""

    low: float
    high: float
    low_included: bool
    high_included: bool
    counts: tuple[int, ...] = ()
    ascending: bool = False  # equal neighbours are allowed

    def holds(self, value: Any) -> bool:
        """Return whether a number, or each number in a list, is in the range; nan never is."""
        if not isinstance(value, (list, tuple)):
            above = self.low <= value if self.low_included else self.low < value
            below = value <= self.high if self.high_included else value < self.high
            return above and below
        fits = len(value) in self.counts if self.counts else bool(value)
        is_sorted = not self.ascending or all(left <= right for left, right in zip(value, value[1:]))
        return fits and all(self.holds(item) for item in value) and is_sorted

    def describe(self, of_list: bool) -> str:
        """Describe the range: "at least 1", or "2 ascending values, each above 0 and at most 1"."""
        words = self._describe_bounds()
        if not of_list:
            return f"a number {words}" if words.startswith("from") else words
        count = " or ".join(map(str, self.counts)) + " " if self.counts else "one or more "
        return f"{count}{'ascending ' if self.ascending else ''}values, each {words}"

    def _describe_bounds(self) -> str:
        low = f"{'at least' if self.low_included else 'above'} {self.low:g}"
        high = f"{'at most' if self.high_included else 'below'} {self.high:.10g}"
        if self.low == -math.inf:
            return "a finite number" if self.high == math.inf else high
        if self.high == math.inf:
            return low
        is_closed = self.low_included and self.high_included
        return f"from {self.low:g} to {self.high:.10g}" if is_closed else f"{low} and {high}"


def parse_range(text: str) -> Range:
    """Parse a range from stock_keys.yaml: "[0, 1)", or "2 ascending in (0, 1]" for a list."""
    match = _SPELLING.fullmatch(text)
    if match is None:
        raise ValueError(f"range {text!r}: expected an interval such as '[0, 1)' or '2 ascending in (0, inf)'")
    counts = tuple(int(count) for count in match["count"].split(" or ")) if match["count"] else ()
    bounds = float(match["low"]), float(match["high"])
    return Range(*bounds, match["open"] == "[", match["close"] == "]", counts, match["ascending"] is not None)


class Key(NamedTuple):
    """One key of a recipe; stock_keys.yaml explains the columns."""

    type: str
    default: Any
    trainer: str
    values: Range | tuple | None = None
    needs: str = ""


@cache
def stock_keys() -> dict[str, Key]:
    """Return every key of a recipe: the arguments of timm's train.py, and a few keys of the built-in trainer."""
    table = yaml.safe_load((Path(__file__).parent / "stock_keys.yaml").read_text(encoding="utf-8"))
    return {name: _key(*row) for name, row in table.items()}


def _key(kind: str, default: Any, trainer: str, values: Any = None, needs: str = "") -> Key:
    if values is not None:
        values = parse_range(values) if isinstance(values, str) else tuple(values)
    return Key(kind, default, trainer, values, needs)


def check_value(key: Any, value: Any) -> Any:
    """Check a value against the type and range of its key; return it, with 1e-3 (a string in YAML 1.1) as a number."""
    row = find_key(key)
    if value is None and row.default is None:
        return None
    kind, many = row.type.rstrip("+0123456789"), row.type.lstrip("abcdefghijklmnopqrstuvwxyz")
    value = _checked_list(key, kind, many, value) if many else _scalar(key, kind, value)
    if isinstance(row.values, Range) and not row.values.holds(value):
        null = ", or null" if row.default is None else ""
        raise RecipeError(f"{key}: {short_repr(value)}: expected {row.values.describe(bool(many))}{null}")
    return value


def find_key(key: Any) -> Key:
    """Return the row of a key, or raise an error that suggests the nearest key."""
    table = stock_keys()
    if key not in table:
        hint = did_you_mean(str(key).replace("-", "_"), table)
        raise RecipeError(f"unknown key {short_repr(key)}: recipe keys are the argument names of timm's train.py{hint}")
    return table[key]


def _checked_list(key: str, kind: str, many: str, value: Any) -> list:
    if not isinstance(value, Sequence) or isinstance(value, str):
        example = ", ".join(["…"] * (3 if many == "3" else 2))
        raise RecipeError(f"{key}: {short_repr(value)}: expected a list, e.g. [{example}]")
    if many != "+" and len(value) != int(many):
        raise RecipeError(f"{key}: {short_repr(value)}: expected {many} values, got {len(value)}")
    return [_scalar(key, kind, item) for item in value]


def _scalar(key: str, kind: str, value: Any) -> Any:
    if kind == "float" and isinstance(value, str) and _SCIENTIFIC.fullmatch(value):
        return float(value)
    types, words = _TYPES[kind]
    if not isinstance(value, types) or (isinstance(value, bool) and kind != "bool"):
        raise RecipeError(f"{key}: {short_repr(value)}: expected {words}, got {type(value).__name__}")
    if kind in ("int", "float") and isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        raise RecipeError(f"{key}: {short_repr(value)}: expected an integer that fits into 64 bits")
    if kind == "float" and _LARGEST_FLOAT < abs(value) < math.inf:
        raise RecipeError(f"{key}: {value}: expected a number that fits into a 32-bit float")
    return value


def explain_idle(key: str, settings: Mapping[str, Any]) -> str:
    """Explain why a key has no effect with the other settings, or defaults if missing; "" if it has an effect."""
    for part in filter(None, stock_keys()[key].needs.split(" and ")):
        terms = part.split(" or ")
        if not any(_is_met(term, settings) for term in terms):
            what = f"{key}: {short_repr(_value(key, settings))} has no effect "
            if part.startswith(("not ", "opt.")):
                other = "opt" if part.startswith("opt.") else part.removeprefix("not ")
                return f"{what}with {other}: {_value(other, settings)}"
            words = [term.replace("=", ": ") for term in terms]
            return f"{what}without {' or '.join(filter(None, [', '.join(words[:-1]), words[-1]]))}"
    return ""


def _is_met(term: str, settings: Mapping[str, Any]) -> bool:
    """Return whether a term in `needs` holds: `key`, `not key`, `key=value`, or a property of timm's optimizer."""
    if term.startswith("opt."):
        from timm.optim import get_optimizer_info, list_optimizers  # imports PyTorch, which takes seconds

        name = _value("opt", settings).lower().removeprefix("lookahead_")
        return name not in list_optimizers() or bool(getattr(get_optimizer_info(name), term.removeprefix("opt.")))
    key, equals, wanted = term.removeprefix("not ").partition("=")
    value = _value(key, settings)
    return (value == wanted if equals else bool(value)) != term.startswith("not ")


def _value(key: str, settings: Mapping[str, Any]) -> Any:
    return settings.get(key, stock_keys()[key].default)
