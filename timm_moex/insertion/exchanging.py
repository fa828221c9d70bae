"""`exchanging`: an exchange in a forward that takes another way than `model(x)`."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from .find import find_moex
from .forwards import Forward, close, open_

__all__ = ["exchanging"]


@contextmanager
def exchanging(model: nn.Module, swap_index: Tensor | None, swap_layer: str | None = None) -> Iterator[None]:
    """Exchange moments in the one forward of the body, whichever way it takes.

    `model(x, swap_index=...)` is the shorter way for a twin itself. This one serves `forward_features`,
    `forward_intermediates`, a module of yours that holds a twin, and layers cut out of a twin. When the body ends
    without an error, the exchange has happened exactly once; after an error nothing of it remains.

    Args:
        model: A model that holds MoEx, at any depth.
        swap_index: Donor of each sample, (B,), int64; None for a forward without an exchange.
        swap_layer: The site, where the model has several.

    Raises:
        TypeError: `swap_index` is no tensor.
        ValueError: The model holds no MoEx or several, or `swap_layer` is no site of it.
        RuntimeError: The body exchanged nothing, or more than once.

    Example:
        >>> import timm, torch
        >>> model = timm.create_model("moex_resnet18")
        >>> x, swap_index = torch.randn(2, 3, 64, 64), torch.tensor([1, 0])
        >>> with exchanging(model, swap_index):
        ...     features = model.forward_features(x)
        >>> features.shape
        torch.Size([2, 512, 2, 2])
    """
    moex = find_moex(model)
    if moex is None:
        raise ValueError(f"model {type(model).__name__} holds no MoEx; use a moex_ twin or insert_moex(model)")
    if not isinstance(swap_index, (Tensor, type(None))):
        raise TypeError(f"swap_index must be a tensor of dtype torch.int64 or None, got {type(swap_index).__name__}")
    forward = Forward(moex, moex.choose(swap_index, swap_layer), swap_index, is_body=True)
    moex.ever_asked = True
    open_(forward)
    try:
        yield
    finally:
        close(forward)
    forward.check_exchanged_once()
