"""Values of a config.json: class names and preprocessing, converted to JSON types and checked."""

import math
from collections import Counter
from collections.abc import Mapping
from enum import Enum
from typing import Any

from timm.data.transforms import str_to_interp_mode

from ..utils.messages import short_repr

__all__ = ["label_list", "plain_preprocessing", "preprocessing_problems"]

_KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


def label_list(label_names: Any, num_classes: int) -> list[str]:
    """Return class names in the order of the labels.

    `label_names` is a list or tuple, an array of strings, or a mapping from label to name or from name to label.

    Raises:
        ValueError: The form is not supported, the number of names is wrong, or a name is not a string or occurs twice.
    """
    given, names = short_repr(label_names), getattr(label_names, "tolist", lambda: label_names)()
    if isinstance(names, Mapping):
        by_label = {v: k for k, v in names.items()} if any(isinstance(key, str) for key in names) else dict(names)
        if by_label.keys() != set(range(len(names))):
            raise ValueError(f"label_names={given}: expected the labels 0 to {len(names) - 1}, each once")
        names = [by_label[label] for label in range(len(names))]
    if not isinstance(names, (list, tuple)):
        raise ValueError(
            f"label_names={given}: expected a list in the order of the labels, or a mapping from label to name, got "
            f"{type(names).__name__}"
        )
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise ValueError(f"label_names: {short_repr(wrong[0])} has type {type(wrong[0]).__name__}, not str")
    if len(names) not in (0, num_classes):
        raise ValueError(f"label_names: {len(names)} names for a model with num_classes={num_classes}")
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"label_names: {name!r} occurs {count} times")
    return list(names)


def plain_preprocessing(data_config: Mapping[str, Any]) -> dict[str, Any]:
    """Extract the preprocessing from a data config, with NumPy arrays, tensors and enums converted to JSON types.

    Raises:
        ValueError: A value is invalid.
    """
    plain = {key: _plain(data_config[key]) for key in _KEYS if data_config.get(key) is not None}
    if wrong := preprocessing_problems(plain):
        raise ValueError(f"data_config: {'; '.join(wrong)}")
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):  # the value is the name in torchvision, but a number in Pillow
        return value.value if isinstance(value.value, str) else value.name.lower()
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def preprocessing_problems(cfg: Mapping[str, Any]) -> list[str]:
    """Find invalid preprocessing values in a pretrained_cfg; timm fills in values that are missing or None."""
    checks = {
        "input_size": (_is_size, "three integers of at least 1"),
        "mean": (_are_numbers, "a list of numbers"),
        "std": (lambda value: _are_numbers(value) and min(value) > 0, "a list of numbers above 0"),
        # the largest in timm is 1.15; 87.5 would be a percentage
        "crop_pct": (lambda value: _are_numbers([value]) and 0 < value <= 2, "a number above 0 and at most 2"),
        "interpolation": (_is_interpolation, "an interpolation that timm supports"),
        "crop_mode": (lambda value: value in ("center", "border", "squash"), "center, border or squash"),
    }
    problems = [
        f"{key} is {short_repr(cfg[key])}, not {wanted}"
        for key, (holds, wanted) in checks.items()
        if cfg.get(key) is not None and not holds(cfg[key])
    ]
    channels = (cfg.get("input_size") or (0,))[0] if not problems else 0
    for key in ("mean", "std"):
        if channels and cfg.get(key) is not None and len(cfg[key]) not in (1, channels):
            problems.append(f"{key} has {len(cfg[key])} values for {channels} channels")
    return problems


def _are_numbers(value: Any) -> bool:
    is_list = isinstance(value, (list, tuple)) and len(value) > 0
    return is_list and all(type(entry) in (int, float) and math.isfinite(entry) for entry in value)


def _is_size(value: Any) -> bool:
    return _are_numbers(value) and len(value) == 3 and all(isinstance(side, int) and side >= 1 for side in value)


def _is_interpolation(value: Any) -> bool:
    try:
        str_to_interp_mode(value)
    except (KeyError, TypeError):
        return False
    return True
