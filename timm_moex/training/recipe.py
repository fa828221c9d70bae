"""Recipes: YAML files whose keys are the argument names of timm's stock train.py, read strictly.

Both trainers read the same file: `timm-moex train RECIPE` and `python train.py --config RECIPE`. `stock_keys.yaml`
lists every key with its type, default and allowed values, and whether the built-in trainer supports it.
"""

import argparse
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..utils.messages import did_you_mean, short_repr
from .keys import RecipeError, check_value, explain_idle, find_key, stock_keys

__all__ = ["Recipe", "RecipeError", "load_recipe", "packaged_recipes", "stock_keys"]


class _StrictLoader(yaml.SafeLoader):
    """A YAML loader that rejects duplicate keys and ambiguous numbers such as 010, and reads 1e-3 as a number."""

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            where = f"the mapping that starts on line {node.start_mark.line + 1}"
            raise RecipeError(f"{', '.join(twice)}: given twice in {where}")
        return node

    def construct_decimal(self, node: yaml.ScalarNode) -> float:
        read = self.construct_yaml_int if node.tag.endswith(":int") else self.construct_yaml_float
        number = read(node)
        if re.search(r"^[-+]?0[0-9xbo]|[_:]", node.value):  # YAML 1.1: octal, hexadecimal, base 60, 1_000
            raise RecipeError(f"line {node.start_mark.line + 1}: YAML reads {node.value} as {number}; write {number}")
        return number


for _tag in ("int", "float"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _StrictLoader.construct_decimal)
_StrictLoader.add_implicit_resolver(  # PyYAML reads these as strings
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def packaged_recipes() -> dict[str, Path]:
    """Map the names of the packaged recipes to their files."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


@dataclass(frozen=True)
class Recipe:
    """A recipe with checked values.

    Attributes:
        name: Name of the packaged recipe, or the file name without its suffix.
        settings: Key → value, only for the keys that are given.
        written: The keys among them that the user wrote, which excludes the keys of a packaged recipe.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    written: frozenset[str] | None = field(default=None, compare=False)

    def __post_init__(self):
        checked = {key: check_value(key, value) for key, value in self.settings.items()}
        object.__setattr__(self, "settings", checked)
        object.__setattr__(self, "written", frozenset(checked) if self.written is None else self.written)

    def override(self, assignments: Iterable[str] = (), **settings: Any) -> "Recipe":
        """Return a copy of the recipe with some values replaced.

        Args:
            assignments: `key=value` each, the value read as YAML; `model_kwargs.moex_prob=0.5` reaches into a mapping.
            **settings: Values by key; None keeps the recipe's value.
        """
        given: dict[str, Any] = {key: value for key, value in settings.items() if value is not None}
        said = dict(given)
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals:
                raise RecipeError(f"--set {assignment}: expected key=value")
            name, value = name.strip(), _read_yaml(text, f"--set {assignment}")
            if said.setdefault(name, value) != value:
                raise RecipeError(f"--set {assignment}: {name} is given twice, also as {said[name]!r}")
            key, dot, inner = name.partition(".")
            if dot:
                if find_key(key).type != "dict":
                    raise RecipeError(f"--set {assignment}: {key} is not a mapping, so it cannot contain {inner}")
                value = {**given.get(key, self.settings.get(key, {})), inner: value}
            given[key] = value
        # A key that an override makes idle, such as model_ema_decay with model_ema=false, had an effect when written
        idle = {key for key in self.written or () if explain_idle(key, self.settings)}
        return Recipe(self.name, self.settings | given, frozenset(idle | set(given)))

    def with_defaults(self, **settings: Any) -> "Recipe":
        """Return a copy of the recipe with values that come from the machine or the data instead of the user."""
        return Recipe(self.name, self.settings | settings, self.written)

    def effective_settings(self) -> dict[str, Any]:
        """Return the settings without those that have no effect, such as model_ema_decay with model_ema: false."""
        return {key: value for key, value in self.settings.items() if not explain_idle(key, self.settings)}

    def arguments(self) -> argparse.Namespace:
        """Return every key that the built-in trainer supports, with train.py's defaults for missing keys.

        Raises:
            RecipeError: The recipe needs something that only train.py supports, or the user wrote a key that has no
                effect without another one.
        """
        table = stock_keys()
        only_stock = [k for k, v in self.settings.items() if table[k].trainer == "stock" and v != table[k].default]
        if only_stock:
            raise RecipeError(
                f"recipe {self.name}: the built-in trainer does not support {', '.join(only_stock)}; remove it, or use "
                "timm's train.py --config RECIPE --device-modules timm_moex.plugin"
            )
        values = {key: row.default for key, row in table.items() if row.trainer != "stock"} | self.settings
        for key, row in table.items():
            if isinstance(row.values, tuple) and values[key] not in row.values:
                served = ", ".join(map(repr, row.values)) + did_you_mean(values[key], row.values)
                raise RecipeError(f"{key}: {short_repr(values[key])}: the built-in trainer supports {served}")
        written = [key for key in self.written or () if values[key] != table[key].default]
        if idle := sorted(filter(None, (explain_idle(key, values) for key in written))):
            raise RecipeError(f"recipe {self.name}: {'; '.join(idle)}")
        return argparse.Namespace(**values)


def load_recipe(source: str | Path) -> Recipe:
    """Read a recipe: a packaged one by its name, such as `quickstart`, or a YAML file by its path."""
    packaged, is_file = packaged_recipes(), Path(source).suffix in (".yaml", ".yml")
    path = Path(source) if is_file else packaged.get(str(source))
    if path is None:
        names = ", ".join(packaged) + did_you_mean(source, packaged)
        raise RecipeError(f"recipe {str(source)!r}: expected the path of a .yaml file or one of {names}")
    if not path.is_file():
        raise RecipeError(f"recipe {source}: no such file")
    try:
        settings = _read_yaml(path.read_text(encoding="utf-8"), f"recipe {source}")
    except UnicodeDecodeError as error:
        raise RecipeError(f"recipe {source}: not valid UTF-8: {error}") from error
    if not isinstance(settings, dict):
        raise RecipeError(f"recipe {source}: expected a mapping of train.py's arguments, got {type(settings).__name__}")
    return Recipe(path.stem, settings, None if is_file else frozenset())


def _read_yaml(text: str, what: str) -> Any:
    try:
        return yaml.load(text, _StrictLoader)
    except RecipeError as error:
        raise RecipeError(f"{what}: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2026-13-45, or 5,000 digits
        raise RecipeError(f"{what}: not valid YAML: {error}") from error
