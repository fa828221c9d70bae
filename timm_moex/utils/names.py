"""Names of models: `moex_resnet50` is the twin of the stock architecture `resnet50`."""

import timm

from .messages import did_you_mean

__all__ = ["TWIN_PREFIX", "check_model_name", "is_twin_name", "stock_name", "twin_name"]

TWIN_PREFIX = "moex_"


def is_twin_name(name: str) -> bool:
    """Return whether `name` names a twin.

    Example:
        >>> is_twin_name("moex_resnet50.a1_in1k"), is_twin_name("resnet50")
        (True, False)
    """
    return name.startswith(TWIN_PREFIX)


def twin_name(name: str) -> str:
    """Return the twin of a stock architecture.

    Example:
        >>> twin_name("resnet50")
        'moex_resnet50'
    """
    return TWIN_PREFIX + name


def stock_name(name: str) -> str:
    """Return the stock architecture of a twin; return any other name unchanged.

    Example:
        >>> stock_name("moex_resnet50"), stock_name("resnet50")
        ('resnet50', 'resnet50')
    """
    return name.removeprefix(TWIN_PREFIX)


def check_model_name(name: str) -> None:
    """Check that a model's name is registered; names with a source ("local-dir:…") are not checked.

    Raises:
        ValueError: The name is not registered; the message has the nearest one.

    Example:
        >>> check_model_name("restnet18")
        Traceback (most recent call last):
        ...
        ValueError: model: 'restnet18' is not registered; did you mean 'resnet18'?
    """
    if ":" not in name and not timm.is_model(name):
        raise ValueError(f"model: {name!r} is not registered{did_you_mean(name.split('.')[0], timm.list_models())}")
