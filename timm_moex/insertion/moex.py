"""What `insert_moex` puts into a model: the exchange at each site, and the two hooks on the model itself.

The hooks are bound methods of registered submodules, so a deep copy (an EMA, say) gets hooks of its own.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..exchange.layer import MomentExchange
from .sites import Site

__all__ = ["MoEx", "SiteExchange"]


class SiteExchange(MomentExchange):
    """The exchange at one site: its settings, the live `swap_index`, and how often it fired in this forward.

    `swap_index` stays after the forward, because checkpointed segments are computed once more during backward.
    """

    def __init__(self, site: Site, **settings):
        super().__init__(channel_dim=site.channel_dim, **settings)
        self.site = site
        self.arm(None)

    def arm(self, swap_index: Tensor | None) -> None:
        """Begin a forward of the model, in which `swap_index` (B,), or nothing, is to be exchanged here."""
        self.swap_index = swap_index
        self.fired = 0
        self.in_forward = True

    def output_hook(self, module: nn.Module, args: tuple, output):
        return self._exchange(output)

    def input_hook(self, module: nn.Module, args: tuple):
        if not args:
            raise TypeError(f"site {self.site.name!r}: {self.site.module} is not called with a positional argument")
        x = self._exchange(args[0])
        return None if x is None else (x, *args[1:])

    def _exchange(self, value):
        if self.swap_index is None:
            return None
        # Outside the model's forward only backward's recomputation may come by; a direct `forward_features` may not.
        if not self.in_forward and torch._C._current_graph_task_id() == -1:
            return None
        self.fired += 1
        if self.site.tuple_entries is not None and isinstance(value, (tuple, list)):
            parts = list(value)
            parts[self.site.tuple_entries] = [self._exchange_tensor(x) for x in parts[self.site.tuple_entries]]
            return type(value)(parts)
        return self._exchange_tensor(value)

    def _exchange_tensor(self, x) -> Tensor:
        self._check_tensor(x)
        if prefix := self.site.prefix_tokens:
            return torch.cat([x[:, :prefix], self(x[:, prefix:], self.swap_index)], dim=1)
        return self(x, self.swap_index)

    def _check_tensor(self, x) -> None:
        site = self.site
        where = f"site {site.name!r}: the {site.hook_on} of {site.module}"
        if not isinstance(x, Tensor):
            raise TypeError(f"{where} is a {type(x).__name__}, not a tensor; choose another layer")
        if "..." not in site.layout and x.ndim != len(site.layout):
            raise ValueError(f"{where} has shape {tuple(x.shape)}, which is not {site.layout}; choose another layer")
        # A layout that timm_moex could only presume must agree with feature_info, and no other may.
        if site.channels and [dim for dim in (1, -1) if x.shape[dim] == site.channels] != [site.channel_dim]:
            raise ValueError(
                f"{where} has shape {tuple(x.shape)}; where its {site.channels} channels are is not certain. "
                f"Give layer={site.module!r} and channel_dim=1 or -1"
            )

    def extra_repr(self) -> str:
        return f"{self.site.name}: {self.site.hook_on} of {self.site.module}, {super().extra_repr()}"


class MoEx(nn.Module):
    """What `insert_moex` puts into a model as `model.moex`; it has no parameters and no buffers.

    Attributes:
        sites: The exchanges, a `SiteExchange` each.
        lam: Weight of a sample's own label in the loss; the donor of the moments gets 1 - lam.
        prob: Probability that the task exchanges a batch.
    """

    def __init__(self, sites: Sequence[SiteExchange], aliases: dict[str, str], lam: float, prob: float):
        super().__init__()
        self.sites = nn.ModuleList(sites)
        self.aliases = aliases
        self.lam = lam
        self.prob = prob
        self.ever_asked = False
        self.handles: list[torch.utils.hooks.RemovableHandle] = []

    def __getstate__(self):
        # torch cannot copy the handle of a hook whose module is gone: pruned, say, or fused into another.
        return {**self.__dict__, "handles": [handle for handle in self.handles if handle.hooks_dict_ref() is not None]}

    @property
    def site_names(self) -> tuple[str, ...]:
        return tuple(exchange.site.name for exchange in self.sites)

    def forward(self, x):
        """The identity, for containers such as `nn.Sequential` that call every child."""
        return x

    def __prepare_scriptable__(self):
        """Called by `torch.jit.script`, which would fail on the hooks with a message of its own."""
        raise TypeError(
            "TorchScript cannot script hooks, so a model that holds MoEx cannot be scripted; create the twin with "
            "scriptable=True, or call remove_moex(model) first"
        )

    def begin(self, model: nn.Module, args: tuple, kwargs: dict):
        """Root forward-pre-hook: take `swap_index` and `swap_layer` out of the call and arm the site."""
        asked = "swap_index" in kwargs
        swap_index, swap_layer = kwargs.pop("swap_index", None), kwargs.pop("swap_layer", None)
        chosen = self._choose(swap_index, swap_layer)
        if swap_index is not None and getattr(model, "_is_replica", False):
            raise RuntimeError("swap_index does not work under nn.DataParallel, which splits it; use DDP")
        if swap_index is not None and (kwargs.get("patch_valid") is not None or args and isinstance(args[0], dict)):
            raise ValueError(
                "swap_index with padded patches (NaFlex): the moments would be those of the padding too. "
                "Exchange batches of images (B, C, H, W)"
            )
        for exchange in self.sites:
            exchange.arm(swap_index if exchange is chosen else None)
        if not torch.compiler.is_compiling():
            self._warn_if_never_asked(asked)
        return args, kwargs

    def finish(self, model: nn.Module, args: tuple, output):
        """Root forward hook: check that the exchange happened exactly once. Called after a failed forward too."""
        for exchange in self.sites:
            exchange.in_forward = False
        if output is None:
            return
        for exchange in self.sites:
            if exchange.swap_index is not None and exchange.fired != 1:
                raise RuntimeError(
                    f"site {exchange.site.name!r}: {exchange.site.module} exchanged {exchange.fired} times in this "
                    "forward instead of once; choose another layer"
                )

    def _choose(self, swap_index: Tensor | None, swap_layer: str | None) -> SiteExchange | None:
        names = ", ".join(self.site_names)
        if swap_index is None:
            if swap_layer is not None:
                raise ValueError(f"swap_layer={swap_layer!r} without swap_index: nothing would be exchanged")
            return None
        if swap_layer is None:
            if len(self.sites) > 1:
                raise ValueError(f"this model has several MoEx layers; give swap_layer, one of: {names}")
            return self.sites[0]
        wanted = self.aliases.get(swap_layer, swap_layer)
        for exchange in self.sites:
            if exchange.site.name == wanted:
                return exchange
        raise ValueError(f"swap_layer={swap_layer!r} is not among this model's MoEx layers: {names}")

    def _warn_if_never_asked(self, asked: bool) -> None:
        if asked:
            self.ever_asked = True
        elif not self.ever_asked and self.training and self.prob > 0 and torch.is_grad_enabled():
            self.ever_asked = True
            warnings.warn(
                f"this model was made with moex_prob={self.prob}, but it is being trained without swap_index, so no "
                "moments are exchanged. Train it through timm_moex.MoExTask (timm's train.py: --device-modules "
                "timm_moex.plugin), or pass swap_index=draw_swap_index(batch_size, prob) and use mix_loss; "
                "model(x, swap_index=None) or moex_prob=0 says that this is meant.",
                stacklevel=6,
            )

    def extra_repr(self) -> str:
        return f"lam={self.lam}, prob={self.prob}"
