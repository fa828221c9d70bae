"""Checks of arguments that several modules take."""

from typing import Any

from torch import nn

__all__ = ["check_fraction", "check_model"]


def check_fraction(name: str, value: float) -> None:
    """Check that a value is a number in [0, 1].

    Args:
        name: Name of the argument, for the message.
        value: Its value.

    Raises:
        ValueError: The value is anything else, including nan and bool.

    Example:
        >>> check_fraction("prob", 1.5)
        Traceback (most recent call last):
        ...
        ValueError: prob=1.5: expected a number in [0, 1]
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r}: expected a number in [0, 1]")


def check_model(model: Any) -> None:
    """Check that `model` is a module.

    Raises:
        TypeError: `model` is anything else, such as a model's name.

    Example:
        >>> check_model("resnet50")
        Traceback (most recent call last):
        ...
        TypeError: model must be an nn.Module, got str
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
