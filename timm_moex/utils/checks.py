"""Checks of arguments that several modules take."""

from typing import Any

from torch import nn

__all__ = ["check_fraction", "check_model"]


def check_fraction(name: str, value: float) -> None:
    """See that a value is a number in [0, 1].

    Args:
        name: Of the argument, for the message.
        value: Its value.

    Raises:
        ValueError: It is something else, such as nan or a bool.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r}: expected a number in [0, 1]")


def check_model(model: Any) -> None:
    """See that `model` is a module.

    Raises:
        TypeError: It is something else, such as a model's name.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
