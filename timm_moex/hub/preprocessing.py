"""What the `pretrained_cfg` of a config.json says of an image's preprocessing, checked before timm works with it."""

import math
from collections.abc import Mapping
from typing import Any

from timm.data.transforms import str_to_interp_mode

from ..utils.messages import short_repr

__all__ = ["preprocessing_problems"]


def preprocessing_problems(cfg: Mapping[str, Any]) -> list[str]:
    """Look for values that no preprocessing can have.

    Args:
        cfg: A pretrained_cfg; what it leaves out, or has as None, timm fills in.

    Returns:
        The problems, each with key and value; empty if there are none.

    Example:
        >>> preprocessing_problems({"input_size": (3, 224, 224), "crop_pct": "0.9"})
        ["crop_pct is '0.9', not a number above 0"]
    """
    checks = {
        "input_size": (_is_size, "three integers of at least 1"),
        "mean": (_are_numbers, "a list of numbers"),
        "std": (lambda value: _are_numbers(value) and min(value) > 0, "a list of numbers above 0"),
        "crop_pct": (lambda value: _is_number(value) and value > 0, "a number above 0"),
        "interpolation": (_is_interpolation, "an interpolation that timm knows"),
        "crop_mode": (lambda value: value in ("center", "border", "squash"), "center, border or squash"),
    }
    return [
        f"{key} is {short_repr(cfg[key])}, not {wanted}"
        for key, (holds, wanted) in checks.items()
        if cfg.get(key) is not None and not holds(cfg[key])
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(map(_is_number, value))


def _is_size(value: Any) -> bool:
    return _are_numbers(value) and len(value) == 3 and all(isinstance(side, int) and side >= 1 for side in value)


def _is_interpolation(value: Any) -> bool:
    try:
        str_to_interp_mode(value)
    except (KeyError, TypeError):
        return False
    return True
