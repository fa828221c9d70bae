"""`exchanging`: an exchange in a forward that takes another way than `model(x)`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from .find import find_moex
from .forwards import Forward, close, open_

__all__ = ["exchanging"]


@contextmanager
def exchanging(
    model: nn.Module,
    swap_index: Tensor | Mapping[str, Tensor | None] | None,
    swap_layer: str | None = None,
    own_share: Tensor | Mapping[str, Tensor] | None = None,
) -> Iterator[None]:
    """Exchange moments in the one forward of the body, whichever way it takes.

    `model(x, swap_index=...)` is the shorter way for a twin itself. This one serves `forward_features`,
    `forward_intermediates`, a module of yours that holds a twin, and layers cut out of a twin. When the body ends
    without an error, the exchange has happened exactly once; after an error nothing of it remains.

    Args:
        model: A model that holds MoEx, at any depth.
        swap_index: Donor of each sample, (B,), int64; a mapping from site to donors for several exchanges; None for a
            forward without an exchange.
        swap_layer: The site, where the model has several and `swap_index` is a tensor.
        own_share: Share of a sample's own moments, (B,), or by site; None for 0.

    Raises:
        TypeError: `swap_index` is neither a tensor nor a mapping.
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
    if not isinstance(swap_index, (Tensor, Mapping, type(None))):
        raise TypeError(f"swap_index must be a tensor of dtype torch.int64 or None, got {type(swap_index).__name__}")
    forward = Forward(moex, moex.plan(swap_index, swap_layer, own_share), is_body=True)
    moex.ever_asked = True
    open_(forward)
    try:
        yield
    finally:
        close(forward)
    forward.check_exchanged_once()
