"""What `insert_moex` puts into a model: the exchange at each site, and the two hooks on the model itself.

The hooks are bound methods of the modules here, so a deep copy (an EMA, say) gets hooks of its own. What a forward
exchanges is kept with that forward, in `forwards.py`, so these modules hold settings alone.
"""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ..exchange.layer import MomentExchange
from .forwards import Forward, close, keep_with, open_, recomputed, running
from .request import Exchange, requested_exchanges
from .sites import Site

__all__ = ["MoEx", "SiteExchange"]


class SiteExchange(MomentExchange):
    """The exchange at one site: its settings, and the hook that carries it out in the forwards that ask for it.

    Args:
        site: Where it is.
        **settings: Of `MomentExchange`.
    """

    moex: "MoEx"

    def __init__(self, site: Site, **settings: Any) -> None:
        super().__init__(channel_dim=site.channel_dim, **settings)
        self.site = site

    def output_hook(self, module: nn.Module, args: tuple, output: Any) -> Any:
        """Forward hook of a site that is a module's output."""
        return self._exchange(module, output)

    def input_hook(self, module: nn.Module, args: tuple) -> tuple | None:
        """Forward-pre-hook of a site that is a module's input."""
        if not args:
            raise TypeError(f"site {self.site.name!r}: {self.site.module} is not called with a positional argument")
        x = self._exchange(module, args[0])
        return None if x is None else (x, *args[1:])

    def _exchange(self, module: nn.Module, value: Any) -> Any:
        """The value with exchanged moments; None, which leaves it as it is, where no exchange is asked for here."""
        forward = self.forward_here(module)
        if forward is None:
            return None
        asked = forward.exchanges[self.site.name]
        if self.site.tuple_entries is not None and isinstance(value, (tuple, list)):
            parts = list(value)
            chosen = parts[self.site.tuple_entries]
            parts[self.site.tuple_entries] = [self._exchange_tensor(x, asked) for x in chosen]
            exchanged: Any = type(value)(parts)
        else:
            exchanged = self._exchange_tensor(value, asked)
        keep_with(forward, exchanged)
        return exchanged

    def forward_here(self, module: nn.Module) -> Forward | None:
        """The forward that exchanges at this site now; it counts the exchange unless backward repeats it."""
        forward = running(self.moex)
        name = self.site.name
        if forward is not None:
            if name not in forward.exchanges:
                return None
            forward.times_exchanged[name] += 1
            return forward
        if torch.compiler.is_compiling():
            return None
        if torch._C._current_graph_task_id() == -1:
            self.moex.note_direct_call(module)
            return None
        forward = recomputed(self.moex, self.moex.called_directly)
        return forward if forward is not None and name in forward.exchanges else None

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
        preset: The preset that the settings started from.
        lam: Weight of a sample's own label in the loss; the donor of the moments gets 1 - lam.
        prob: Probability that the task exchanges a batch, or with `each_site` a batch at one site.
        alpha: The task draws the share of own moments from Beta(alpha, alpha); 0 for none.
        each_site: Whether the task draws a coin and a permutation for each site, or one site for a batch.
        off_epoch: The task exchanges nothing from this epoch on, counted from 0; 0 for never.
        ramp_epochs: The task raises the probability linearly to `prob` over so many epochs; 0 for none.
    """

    sites: Sequence[SiteExchange]

    def __init__(
        self,
        sites: Sequence[SiteExchange],
        aliases: dict[str, str],
        *,
        preset: str = "moex",
        lam: float,
        prob: float,
        alpha: float = 0.0,
        each_site: bool = False,
        off_epoch: int = 0,
        ramp_epochs: int = 0,
    ):
        super().__init__()
        self.sites = nn.ModuleList(sites)  # type: ignore[assignment]
        self.aliases = aliases
        self.preset = preset
        self.lam = lam
        self.prob = prob
        self.alpha = alpha
        self.each_site = each_site
        self.off_epoch = off_epoch
        self.ramp_epochs = ramp_epochs
        self.ever_asked = False
        self.called_directly = False
        self.handles: list[torch.utils.hooks.RemovableHandle] = []
        for exchange in sites:
            exchange.__dict__["moex"] = self  # not as a submodule: the modules would contain each other

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

    def begin(self, model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Root forward-pre-hook: take the arguments of the exchange out of the call and begin a forward with them."""
        kwargs = dict(kwargs)
        asked = "swap_index" in kwargs
        exchanges = self.plan(
            kwargs.pop("swap_index", None), kwargs.pop("swap_layer", None), kwargs.pop("own_share", None)
        )
        body = running(self)
        if asked or body is None or not body.is_body:
            body = None
        else:
            exchanges = body.exchanges
        if exchanges:
            self._check_call(model, args, kwargs)
        frame = None
        if not torch.compiler.is_compiling():
            self._warn_if_never_asked(asked or body is not None)
            frame = sys._getframe(1)
        open_(Forward(self, exchanges, frame, body))
        return args, kwargs

    def _check_call(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        if getattr(model, "_is_replica", False):
            raise RuntimeError("swap_index does not work under nn.DataParallel, which splits it; use DDP")
        if kwargs.get("patch_valid") is not None or args and isinstance(args[0], dict):
            raise ValueError(
                "swap_index with padded patches (NaFlex): the moments would be those of the padding too. "
                "Exchange batches of images (B, C, H, W)"
            )

    def finish(self, model: nn.Module, args: tuple, output: Any) -> None:
        """Root forward hook: check that each exchange happened exactly once. Called after most failed forwards too."""
        forward = running(self)
        if forward is None or forward.is_body:
            return
        if forward.frame is not None and forward.frame is not sys._getframe(1):
            return  # this call failed and is no longer among the running ones; that one is around it
        close(forward, output)
        if output is not None:
            forward.check_exchanged_once()

    def plan(self, swap_index: Any, swap_layer: str | None = None, own_share: Any = None) -> dict[str, Exchange]:
        """The exchanges that a call asks for, see `requested_exchanges`."""
        return requested_exchanges(
            swap_index, swap_layer, own_share, sites=self.site_names, aliases=self.aliases, lam=self.lam
        )

    def prob_at(self, epoch: int | None) -> float:
        """The probability of an exchange in an epoch, counted from 0.

        Raises:
            RuntimeError: It depends on the epoch, and `epoch` is None.
        """
        if not self.off_epoch and not self.ramp_epochs:
            return self.prob
        if epoch is None:
            raise RuntimeError(
                f"off_epoch={self.off_epoch}, ramp_epochs={self.ramp_epochs}: the task does not know the epoch; call "
                "task.set_epoch(epoch) before each one"
            )
        if self.off_epoch and epoch >= self.off_epoch:
            return 0.0
        return self.prob * min(1.0, (epoch + 1) / self.ramp_epochs) if self.ramp_epochs else self.prob

    def note_direct_call(self, module: nn.Module) -> None:
        """A site ran, and neither the model's own call nor `exchanging` is around it. Warn once in training."""
        if self.called_directly:
            return
        self.called_directly = True
        if module.training and self.prob > 0 and torch.is_grad_enabled() and not self.ever_asked:
            self._warn("its layers are called directly (forward_features, features cut out of the model, …)")

    def _warn_if_never_asked(self, asked: bool) -> None:
        if asked:
            self.ever_asked = True
        elif not self.ever_asked and self.training and self.prob > 0 and torch.is_grad_enabled():
            self._warn("it is called without swap_index")

    def _warn(self, reason: str) -> None:
        self.ever_asked = True
        warnings.warn(
            f"this model was made with moex_prob={self.prob}, but it is being trained and {reason}, so no moments are "
            "exchanged. Train it through timm_moex.MoExTask (timm's train.py: --device-modules timm_moex.plugin), or "
            "pass swap_index=draw_swap_index(batch_size, prob) and use mix_loss; other calls exchange within "
            "timm_moex.exchanging(model, swap_index). model(x, swap_index=None) or moex_prob=0 states your intention.",
            stacklevel=_stacklevel(),
        )

    def extra_repr(self) -> str:
        shown = f"prob={self.prob}, lam={self.lam}"
        if self.preset != "moex":
            shown += f", preset={self.preset!r}"
        names = ("alpha", "each_site", "off_epoch", "ramp_epochs")
        return shown + "".join(f", {name}={getattr(self, name)}" for name in names if getattr(self, name))


def _stacklevel() -> int:
    """For a warning by the caller: the level of the first frame outside of torch, timm and timm_moex."""
    folders = tuple(str(Path(file).parent) for file in (torch.__file__, timm.__file__, Path(__file__).parent))
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(folders):
        level, frame = level + 1, frame.f_back
    return level
