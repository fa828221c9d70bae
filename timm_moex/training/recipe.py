"""Recipes: YAML files whose keys are the argument names of timm's stock train.py, read strictly.

The same file serves either trainer: `timm-moex train RECIPE` or `python train.py --config RECIPE`. `stock_keys.yaml`
holds every key with its type, default and allowed values and says whether the built-in trainer serves it too.
"""

import argparse
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..utils.messages import nearest, short_repr
from .ranges import Range, parse_range

__all__ = ["Recipe", "RecipeError", "load_recipe", "packaged_recipes", "stock_keys"]

_TYPES: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float), "bool": bool, "dict": dict}
_TYPE_WORDS = {"str": "a text", "int": "an integer", "float": "a number", "bool": "true or false", "dict": "a mapping"}
_SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # YAML 1.1 takes 1e-3 and 1.0e3 for text
_LARGEST_INTEGER, _LARGEST_FLOAT = 2**63 - 1, 3.4e38  # of PyTorch's int64 and float32


class RecipeError(ValueError):
    """A recipe names an unknown key, gives a key a wrong value, or asks a trainer for what it cannot do."""


class StockKey(NamedTuple):
    """One argument of train.py.

    Attributes:
        type: As in stock_keys.yaml.
        default: train.py's.
        trainer: "both", "stock" or "built-in".
        values: Those that are allowed: a `Range`, all of them in a tuple, or None for what the type allows.
    """

    type: str
    default: Any
    trainer: str
    values: Range | tuple | None = None


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key given twice is an error."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise RecipeError(f"{', '.join(twice)} given twice, line {node.start_mark.line + 1} on")
        return super().construct_mapping(node, deep=deep)


@cache
def stock_keys() -> dict[str, StockKey]:
    """Every argument of timm's train.py, by its name in a config file."""
    table = yaml.safe_load((Path(__file__).parent / "stock_keys.yaml").read_text(encoding="utf-8"))
    return {key: StockKey(*row[:3], *map(_values, row[3:])) for key, row in table.items()}


def _values(spelled: str | list) -> Range | tuple:
    return parse_range(spelled) if isinstance(spelled, str) else tuple(spelled)


def packaged_recipes() -> dict[str, Path]:
    """Name → file of the recipes that come with the package."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


@dataclass(frozen=True)
class Recipe:
    """What a recipe says, checked.

    Attributes:
        name: Where it came from: the packaged name, or the file's stem.
        settings: Key → value, only the keys that are given.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        checked = {key: _checked(key, value) for key, value in self.settings.items()}
        object.__setattr__(self, "settings", checked)

    def override(self, assignments: Iterable[str] = (), **settings: Any) -> "Recipe":
        """The recipe with some values replaced.

        Args:
            assignments: `key=value` each, the value read as YAML; `model_kwargs.moex_prob=0.5` reaches into a mapping.
            **settings: Values as they are; None leaves the recipe's.

        Raises:
            RecipeError: No `=`, unknown key, wrong type, or out of the key's range.
        """
        merged = dict(self.settings)
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            if not equals:
                raise RecipeError(f"--set {assignment}: expected key=value")
            key, dot, inner = key.strip().partition(".")
            value = _read_yaml(text, f"--set {assignment}")
            if dot:
                if _known(key).type != "dict":
                    raise RecipeError(f"--set {assignment}: {key} is not a mapping, it has no {inner}")
                value = {**merged.get(key, {}), inner: value}
            merged[key] = value
        merged.update({key: value for key, value in settings.items() if value is not None})
        return Recipe(self.name, merged)

    def arguments(self) -> argparse.Namespace:
        """Every key that the built-in trainer serves, with train.py's defaults for those the recipe leaves out.

        Raises:
            RecipeError: The recipe needs something that only stock train.py does.
        """
        table = stock_keys()
        not_served = {key: row.default for key, row in table.items() if row.trainer == "stock"}
        only_stock = [k for k, v in self.settings.items() if k in not_served and v != not_served[k]]
        if only_stock:
            raise RecipeError(
                f"recipe {self.name}: {', '.join(only_stock)}: only timm's stock train.py serves "
                f"this, the built-in trainer does not; leave it out, or run "
                "train.py --config with --device-modules timm_moex.plugin"
            )
        values = {key: row.default for key, row in table.items() if row.trainer != "stock"} | self.settings
        for key, row in table.items():
            if isinstance(row.values, tuple) and values[key] not in row.values:
                served = ", ".join(map(repr, row.values)) + nearest(values[key], row.values)
                raise RecipeError(f"{key}: {short_repr(values[key])}: the built-in trainer serves {served}")
        return argparse.Namespace(**values)


def load_recipe(source: str | Path) -> Recipe:
    """Read a recipe.

    Args:
        source: Name of a packaged recipe (`quickstart`) or path of a YAML file.

    Raises:
        RecipeError: No such recipe or unknown key, or a value of the wrong type or out of its range.
    """
    text, path, packaged = str(source), Path(source), packaged_recipes()
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise RecipeError(f"recipe {text}: no such file")
        content = _read_text(path)
    elif text in packaged:
        content = _read_text(packaged[text])
    else:
        names = ", ".join(packaged) + nearest(text, packaged)
        raise RecipeError(f"recipe {text!r}: expected the path of a .yaml file or one of {names}")
    settings = _read_yaml(content, f"recipe {text}")
    if not isinstance(settings, dict):
        raise RecipeError(f"recipe {text}: expected a mapping of train.py's arguments, got {type(settings).__name__}")
    return Recipe(path.stem, settings)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"recipe {path}: not a text in UTF-8: {error}") from error


def _read_yaml(text: str, what: str) -> Any:
    try:
        return yaml.load(text, _StrictLoader)
    except RecipeError as error:
        raise RecipeError(f"{what}: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2026-13-45, or 5,000 digits
        raise RecipeError(f"{what}: not readable as YAML: {error}") from error


def _known(key: Any) -> StockKey:
    table = stock_keys()
    if key not in table:
        hint = nearest(str(key).replace("-", "_"), table)
        raise RecipeError(f"unknown key {short_repr(key)}: recipe keys are the argument names of timm's train.py{hint}")
    return table[key]


def _checked(key: str, value: Any) -> Any:
    """`value`, of the type and in the range that train.py's argument has."""
    row = _known(key)
    if value is None and row.default is None:
        return None
    kind, many = row.type.rstrip("+0123456789"), row.type.lstrip("abcdefghijklmnopqrstuvwxyz")
    value = _checked_list(key, kind, many, value) if many else _scalar(key, kind, value)
    if isinstance(row.values, Range) and not row.values.holds(value):
        null = ", or null" if row.default is None else ""
        raise RecipeError(f"{key}: {short_repr(value)}: expected {row.values.describe(bool(many))}{null}")
    return value


def _checked_list(key: str, kind: str, many: str, value: Any) -> list:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RecipeError(
            f"{key}: {short_repr(value)}: expected a list, e.g. [{', '.join(['…'] * (3 if many == '3' else 2))}]"
        )
    if many != "+" and len(value) != int(many):
        raise RecipeError(f"{key}: {short_repr(value)}: expected {many} values, got {len(value)}")
    for item in value:
        if _is_scientific(kind, item):  # train.py's parser converts such a text, but not in a list
            raise RecipeError(f"{key}: YAML reads {item} in a list as a text; write {float(item)!r}")
    return [_scalar(key, kind, item) for item in value]


def _is_scientific(kind: str, value: Any) -> bool:
    return kind == "float" and isinstance(value, str) and _SCIENTIFIC.fullmatch(value) is not None


def _scalar(key: str, kind: str, value: Any) -> Any:
    if _is_scientific(kind, value):
        return float(value)
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
        raise RecipeError(f"{key}: {short_repr(value)}: expected {_TYPE_WORDS[kind]}, got {type(value).__name__}")
    if kind in ("int", "float") and isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        raise RecipeError(f"{key}: {short_repr(value)}: an integer of more than 64 bits")
    if kind == "float" and isinstance(value, (int, float)) and _LARGEST_FLOAT < abs(value) < math.inf:
        raise RecipeError(f"{key}: {value}: too large for a 32-bit float")
    return value
