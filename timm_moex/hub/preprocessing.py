"""Preprocessing in the `pretrained_cfg` of a config.json: conversion to plain values, and checks."""

import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

from timm.data.transforms import str_to_interp_mode

from ..utils.messages import short_repr

__all__ = ["plain_preprocessing", "preprocessing_problems"]

_KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
_MAX_CROP_PCT = 2  # the largest in timm is 1.15; 87.5 is a percentage


def plain_preprocessing(data_config: Mapping[str, Any]) -> dict[str, Any]:
    """Extract the preprocessing from a data config, with NumPy arrays, tensors and enums converted to JSON types.

    Raises:
        ValueError: A value is invalid.

    Example:
        >>> import torch
        >>> plain_preprocessing({"mean": torch.tensor([0.5]), "num_workers": 2})
        {'mean': [0.5]}
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
    """Find invalid preprocessing values.

    Args:
        cfg: A pretrained_cfg; timm fills in values that are missing or None.

    Returns:
        The problems, each with key and value; empty if all values are valid.

    Example:
        >>> preprocessing_problems({"input_size": (3, 224, 224), "crop_pct": "0.9"})
        ["crop_pct is '0.9', not a number above 0 and at most 2"]
    """
    checks = {
        "input_size": (_is_size, "three integers of at least 1"),
        "mean": (_are_numbers, "a list of numbers"),
        "std": (lambda value: _are_numbers(value) and min(value) > 0, "a list of numbers above 0"),
        "crop_pct": (
            lambda value: _is_number(value) and 0 < value <= _MAX_CROP_PCT,
            f"a number above 0 and at most {_MAX_CROP_PCT}",
        ),
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
