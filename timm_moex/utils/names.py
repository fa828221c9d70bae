"""Names of models: `moex_resnet50` is the twin of the stock architecture `resnet50`."""

import timm

from .messages import did_you_mean

__all__ = ["TWIN_PREFIX", "check_model_name", "is_twin_name", "stock_name", "twin_name"]

TWIN_PREFIX = "moex_"


def is_twin_name(name: str) -> bool:
    """Return whether `name` is the name of a twin, with or without a tag."""
    return name.startswith(TWIN_PREFIX)


def twin_name(name: str) -> str:
    """Return the twin of a stock architecture."""
    return TWIN_PREFIX + name


def stock_name(name: str) -> str:
    """Return the stock architecture of a twin; return any other name unchanged."""
    return name.removeprefix(TWIN_PREFIX)


def check_model_name(name: str) -> None:
    """Raise a ValueError unless a model's name is registered; names with a source ("local-dir:…") are not checked.

    Example:
        >>> check_model_name("restnet18")
        Traceback (most recent call last):
        ...
        ValueError: model: 'restnet18' is not registered; did you mean 'resnet18'?
    """
    if ":" not in name and not timm.is_model(name):
        raise ValueError(f"model: {name!r} is not registered{did_you_mean(name.split('.')[0], timm.list_models())}")
