"""Names of twins: `moex_resnet50` is the twin of the stock architecture `resnet50`."""

__all__ = ["TWIN_PREFIX", "is_twin_name", "stock_name", "twin_name"]

TWIN_PREFIX = "moex_"


def is_twin_name(name: str) -> bool:
    """Whether `name` is a twin's.

    Example:
        >>> is_twin_name("moex_resnet50.a1_in1k"), is_twin_name("resnet50")
        (True, False)
    """
    return name.startswith(TWIN_PREFIX)


def twin_name(name: str) -> str:
    """The twin of a stock architecture.

    Example:
        >>> twin_name("resnet50")
        'moex_resnet50'
    """
    return TWIN_PREFIX + name


def stock_name(name: str) -> str:
    """The stock architecture of a twin, or `name` itself if it is no twin's.

    Example:
        >>> stock_name("moex_resnet50"), stock_name("resnet50")
        ('resnet50', 'resnet50')
    """
    return name.removeprefix(TWIN_PREFIX)
