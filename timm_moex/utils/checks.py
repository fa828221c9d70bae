"""Checks of arguments that several modules take."""

from typing import Any

from torch import nn

__all__ = ["check_fraction", "check_model"]


def check_fraction(name: str, value: float) -> None:
    """Raise a ValueError unless the argument `name` is a number in [0, 1], which nan and bools are not.

    Example:
        >>> check_fraction("prob", 1.5)
        Traceback (most recent call last):
        ...
        ValueError: prob=1.5: expected a number in [0, 1]
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r}: expected a number in [0, 1]")


def check_model(model: Any) -> None:
    """Raise a TypeError unless `model` is a module; a model's name is not."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
