"""The keys of a recipe: their types, ranges and dependencies from stock_keys.yaml, and the check of a value."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from timm.optim import get_optimizer_info, list_optimizers

from ..utils.messages import did_you_mean, short_repr

__all__ = ["Key", "Range", "RecipeError", "check_value", "explain_idle", "parse_range", "stock_keys"]

_TYPES: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float), "bool": bool, "dict": dict}
_TYPE_WORDS = {"str": "a string", "int": "an integer", "float": "a number", "bool": "true or false"}
_TYPE_WORDS |= {"dict": "a mapping"}
_SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # PyYAML reads 1e-3 and 1.0e3 as strings; train.py converts
_LARGEST_INTEGER, _LARGEST_FLOAT = 2**63 - 1, 3.4e38  # of PyTorch's int64 and float32
_INFINITY = float("inf")
_SPELLING = re.compile(
    r"(?:(?P<count>\d+(?: or \d+)?) )?(?:(?P<ascending>ascending) )?(?:in )?"
    r"(?P<open>[\[(])(?P<low>[^,]+), (?P<high>[^\])]+)(?P<close>[\])])"
)


class RecipeError(ValueError):
    """A recipe has an unknown key or an invalid value, or asks for something that the trainer cannot do."""


@dataclass(frozen=True)
class Range:
    """The allowed values of a key.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        low_included: Whether `low` itself is allowed.
        high_included: Whether `high` itself is allowed.
        counts: Allowed numbers of values in a list; empty for any number except 0.
        ascending: Whether a list's values must be in ascending order; equal neighbours are allowed.
    """

    low: float
    high: float
    low_included: bool
    high_included: bool
    counts: tuple[int, ...] = ()
    ascending: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a number, or each number in a list, is in the range; nan never is.

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
        """Describe the range in words for an error message.

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
    """Parse a range from stock_keys.yaml: "[0, 1)", or "2 ascending in (0, 1]" for a list.

    Args:
        text: An interval; for a list, optionally preceded by the number of values and "ascending in".

    Raises:
        ValueError: `text` has another format.

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


class Key(NamedTuple):
    """One key of a recipe.

    Attributes:
        type: The type, as in stock_keys.yaml.
        default: train.py's default, or the built-in trainer's default if train.py lacks the key.
        trainer: Which trainer supports the key: "both", "stock" (train.py) or "built-in".
        values: The allowed values: a `Range`, a tuple of all values, or None for any value of the type.
        needs: Other settings without which the key has no effect; "" if it always has one.
    """

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


def _key(kind: str, default: Any, trainer: str, values: str | list | None = None, needs: str = "") -> Key:
    if values is not None:
        values = parse_range(values) if isinstance(values, str) else tuple(values)  # type: ignore[assignment]
    return Key(kind, default, trainer, values, needs)  # type: ignore[arg-type]


def check_value(key: Any, value: Any) -> Any:
    """Check a value of a recipe against the type and range of its key.

    Returns:
        The value. A number that YAML 1.1 reads as a string, such as 1e-3, is converted.

    Raises:
        RecipeError: The key is unknown, or the value has the wrong type or is out of range.

    Example:
        >>> check_value("lr", "1e-3")
        0.001
    """
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
    """Return the row of a key.

    Raises:
        RecipeError: The key does not exist; the message suggests the nearest one.
    """
    table = stock_keys()
    if key not in table:
        hint = did_you_mean(str(key).replace("-", "_"), table)
        raise RecipeError(f"unknown key {short_repr(key)}: recipe keys are the argument names of timm's train.py{hint}")
    return table[key]


def _checked_list(key: str, kind: str, many: str, value: Any) -> list:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RecipeError(
            f"{key}: {short_repr(value)}: expected a list, e.g. [{', '.join(['…'] * (3 if many == '3' else 2))}]"
        )
    if many != "+" and len(value) != int(many):
        raise RecipeError(f"{key}: {short_repr(value)}: expected {many} values, got {len(value)}")
    return [_scalar(key, kind, item) for item in value]


def _scalar(key: str, kind: str, value: Any) -> Any:
    if kind == "float" and isinstance(value, str) and _SCIENTIFIC.fullmatch(value):
        return float(value)
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
        raise RecipeError(f"{key}: {short_repr(value)}: expected {_TYPE_WORDS[kind]}, got {type(value).__name__}")
    if kind in ("int", "float") and isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        raise RecipeError(f"{key}: {short_repr(value)}: this integer does not fit into 64 bits")
    if kind == "float" and isinstance(value, (int, float)) and _LARGEST_FLOAT < abs(value) < math.inf:
        raise RecipeError(f"{key}: {value}: too large for a 32-bit float")
    return value


def explain_idle(key: str, settings: Mapping[str, Any]) -> str:
    """Explain why a key has no effect with the other settings; "" if it has one.

    Args:
        key: The key.
        settings: Key → value; missing keys have their defaults.

    Example:
        >>> explain_idle("mixup_off_epoch", {"mixup_off_epoch": 5, "cutmix": 0.0})
        'mixup_off_epoch: 5 has no effect without mixup, cutmix or cutmix_minmax'
        >>> explain_idle("clip_mode", {"clip_mode": "agc", "clip_grad": 0.01})
        ''
    """
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
    """Whether a term in a key's `needs` holds: `key`, `not key`, `key=value`, or a property of timm's optimizer."""
    if term.startswith("opt."):
        name = _value("opt", settings).lower().removeprefix("lookahead_")
        return name not in list_optimizers() or bool(getattr(get_optimizer_info(name), term.removeprefix("opt.")))
    key, equals, wanted = term.removeprefix("not ").partition("=")
    value = _value(key, settings)
    return (value == wanted if equals else bool(value)) != term.startswith("not ")


def _value(key: str, settings: Mapping[str, Any]) -> Any:
    return settings.get(key, stock_keys()[key].default)
