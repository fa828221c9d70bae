"""Argument checks shared by several modules."""

import math
from typing import Any

from torch import nn

__all__ = ["check_finite", "check_fraction", "check_model", "check_whole"]


def check_fraction(name: str, value: float) -> None:
    """Raise a ValueError unless the argument `name` is a number in [0, 1]; nan and bools are rejected.

    Example:
        >>> check_fraction("prob", 1.5)
        Traceback (most recent call last):
        ...
        ValueError: prob=1.5: expected a number in [0, 1]
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r}: expected a number in [0, 1]")


def check_finite(name: str, value: float) -> None:
    """Raise a ValueError unless the argument `name` is a finite number >= 0.

    Example:
        >>> check_finite("eps", 1e-5)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"{name}={value!r}: expected a finite number >= 0")


def check_whole(name: str, value: int, least: int = 0) -> None:
    """Raise a ValueError unless the argument `name` is an integer >= `least`.

    Example:
        >>> check_whole("epoch", 3)
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}: expected an integer >= {least}")


def check_model(model: Any) -> None:
    """Raise a TypeError unless `model` is a module; the name of a model is rejected."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
