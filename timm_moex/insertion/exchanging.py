"""`exchanging`: a context manager for forwards that do not go through `model(x)`."""

import inspect
import sys
from collections.abc import Mapping
from types import TracebackType

from torch import Tensor, nn

from .find import require_moex
from .forwards import Forward, close, open_
from .request import DRAW, requested_exchanges

__all__ = ["exchanging"]


class exchanging:
    """Exchange moments in the one forward that runs in the body of the `with` statement.

    Use this for `forward_features`, `forward_intermediates`, your own module that contains a twin, or layers taken
    from a twin. To call the twin itself, `model(x, swap_index=...)` is shorter. If the body ends without an error, the
    exchange has happened exactly once. After an error, no state is left behind.

    Without `swap_index`, forwards in the body draw as usual, with donors from other `groups`.

    Args:
        model: A model with MoEx, at any depth.
        swap_index: Donor of each sample, (B,), int64; a mapping from site to donors for several exchanges; None to
            exchange nothing.
        swap_layer: The site, if the model has several and `swap_index` is a tensor.
        own_share: Share of a sample's own moments, (B,), or a mapping from site to shares; None for 0.
        groups: Group of each sample, (B,), integers, see `draw_swap_index`. Cannot be combined with `swap_index`.

    Raises:
        TypeError: `swap_index` is neither a tensor nor a mapping.
        ValueError: The model has no MoEx or several, `swap_layer` is not one of its sites, or both `groups` and
            `swap_index` are given.
        RuntimeError: The body exchanged nothing or exchanged more than once, or it is in a generator or coroutine,
            which could be suspended while other code calls the model.

    Example:
        >>> import timm, torch
        >>> model = timm.create_model("moex_resnet18")
        >>> x, swap_index = torch.randn(2, 3, 64, 64), torch.tensor([1, 0])
        >>> with exchanging(model, swap_index):
        ...     features = model.forward_features(x)
        >>> features.shape
        torch.Size([2, 512, 2, 2])
    """

    def __init__(
        self,
        model: nn.Module,
        swap_index: Tensor | Mapping[str, Tensor | None] | None = DRAW,
        swap_layer: str | None = None,
        own_share: Tensor | Mapping[str, Tensor] | None = None,
        *,
        groups: Tensor | None = None,
    ) -> None:
        moex = require_moex(model)
        exchanges = requested_exchanges(moex, swap_index, swap_layer, own_share, groups)
        if exchanges is None:
            self._forward = Forward(moex, {}, is_body=True, draws=True, groups=groups)
        else:
            self._forward = Forward(moex, exchanges, is_body=True)
            moex.record(self._forward, trains=False)

    def __enter__(self) -> None:
        frame = sys._getframe(1)
        suspends = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
        by_contextlib = frame.f_back is not None and frame.f_back.f_globals.get("__name__") == "contextlib"
        if frame.f_code.co_flags & suspends and not by_contextlib:
            raise RuntimeError(
                f"exchanging cannot be used in the generator or coroutine {frame.f_code.co_name}: while it is "
                "suspended, other calls of the model would also exchange. Use model(x, swap_index=...) instead"
            )
        open_(self._forward)

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        close(self._forward)
        if kind is None:
            self._forward.check_exchanged_once()
