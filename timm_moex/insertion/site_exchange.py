"""The exchange at one site of a model, and the hook that performs it."""

from typing import Any

import torch
from torch import Tensor, nn

from ..exchange.functional import moment_view
from ..exchange.layer import MomentExchange
from .direct import forward_at
from .forwards import keep_with
from .presets import MoExSettings
from .request import Exchange
from .sites import Site

__all__ = ["SiteExchange"]


class SiteExchange(MomentExchange):
    """The exchange at one site, and the hook that performs it in the forwards that exchange there."""

    def __init__(self, moex: Any, site: Site, settings: MoExSettings) -> None:
        super().__init__(
            norm=site.norm if settings.norm is None else settings.norm,
            eps=settings.eps,
            positive_only=settings.positive_only,
            moments=settings.moments,
            channel_dim=site.channel_dim,
            detach=settings.detach,
            match=settings.match,
        )
        self.moex = moex
        self.site = site

    def output_hook(self, module: nn.Module, args: tuple, output: Any) -> Any:
        """Forward hook for a site that is a module's output."""
        return self._exchange(module, output)

    def input_hook(self, module: nn.Module, args: tuple) -> tuple | None:
        """Forward pre-hook for a site that is a module's input."""
        if not args:
            raise TypeError(f"site {self.site.name!r}: {self.site.module} was called without a positional argument")
        x = self._exchange(module, args[0])
        return None if x is None else (x, *args[1:])

    def _exchange(self, module: nn.Module, value: Any) -> Any:
        """Return the value with exchanged moments, or None to leave it unchanged."""
        if isinstance(value, torch.fx.Proxy):
            raise TypeError(
                "torch.fx cannot trace the draw of an exchange; call remove_moex(model) first, or extract features "
                "with features_only=True"
            )
        chosen = self.site.tuple_entries if isinstance(value, (tuple, list)) else None
        first = value if chosen is None else value[chosen][0]
        forward = forward_at(self.moex, self.site.name, module, first)
        if forward is None:
            return None
        asked = forward.exchanges.get(self.site.name)
        if asked is None:
            if forward.is_direct:
                keep_with(forward, value)
            if forward.seed is not None:  # an invalid site fails in the first draw, not at the first exchange
                self._check_tensor(first)
                if self.match == "moments":
                    moment_view(first[:, self.site.prefix_tokens :], self.norm, self.positive_only, self.channel_dim)
            return None
        if chosen is not None:
            entries = list(value)
            entries[chosen] = [self._exchange_tensor(x, asked) for x in entries[chosen]]
            exchanged: Any = type(value)(entries)
        else:
            exchanged = self._exchange_tensor(value, asked)
        keep_with(forward, exchanged)
        return exchanged

    def _exchange_tensor(self, x: Any, asked: Exchange) -> Tensor:
        self._check_tensor(x)
        if prefix := self.site.prefix_tokens:
            return torch.cat([x[:, :prefix], self(x[:, prefix:], *asked)], dim=1)
        return self(x, *asked)

    def _check_tensor(self, x: Any) -> None:
        site = self.site
        where = f"site {site.name!r}: the {site.hook_on} of {site.module}"
        if not isinstance(x, Tensor):
            raise TypeError(f"{where} is a {type(x).__name__}, not a tensor; choose another layer")
        if "..." not in site.layout and x.ndim != len(site.layout):
            raise ValueError(
                f"{where} has shape {tuple(x.shape)}, which is not {site.layout}; choose another layer"
                + (", or pass channel_dim=1 or -1" if site.channels else "")
            )
        # A presumed layout must match the number of channels; if strict, no other axis may match it.
        fitting = [dim for dim in (1, -1) if x.shape[dim] == site.channels]
        if site.channels and (site.channel_dim not in fitting or site.strict and len(fitting) > 1):
            raise ValueError(
                f"{where} has shape {tuple(x.shape)}, so the axis of its {site.channels} channels is "
                f"ambiguous; pass layer={site.module!r} and channel_dim=1 or -1"
            )

    def extra_repr(self) -> str:
        return f"{self.site.name}: {self.site.hook_on} of {self.site.module}, {super().extra_repr()}"
