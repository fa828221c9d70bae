"""`insert_moex`: from a site's name to its module and the hooks that exchange there.

The hooks are bound methods of registered submodules, so a deep copy (an EMA, say) gets hooks of its own.
"""

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from timm.utils import unwrap_model
from torch import Tensor, nn

from .layer import MomentExchange
from .sites import Site, family_of, moex_sites, unread_site

__all__ = ["MoEx", "find_moex", "insert_moex", "moex_sites", "remove_moex"]


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
        if self.site.items is not None and isinstance(value, (tuple, list)):
            parts = list(value)
            parts[self.site.items] = [self._exchange_tensor(x) for x in parts[self.site.items]]
            return type(value)(parts)
        return self._exchange_tensor(value)

    def _exchange_tensor(self, x) -> Tensor:
        self._check_tensor(x)
        if prefix := self.site.prefix_tokens:
            return torch.cat([x[:, :prefix], self(x[:, prefix:], self.swap_index)], dim=1)
        return self(x, self.swap_index)

    def _check_tensor(self, x) -> None:
        site = self.site
        where = f"site {site.name!r}: the {site.at} of {site.module}"
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
        return f"{self.site.name}: {self.site.at} of {self.site.module}, {super().extra_repr()}"


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


def find_moex(model: nn.Module) -> MoEx | None:
    """The `MoEx` of a model, also through DDP, torch.compile and timm's EMA wrapper; None if there is none."""
    for child in unwrap_model(model).children():
        if isinstance(child, MoEx):
            return child
    return None


def _check_fraction(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r}: expected a number in [0, 1]")


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    if unwrap_model(model) is not model or isinstance(model, nn.DataParallel):
        raise TypeError(
            f"model is wrapped in {type(model).__name__}; insert MoEx into the bare model, then wrap or compile it"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model is a TorchScript module; hooks cannot be scripted, so MoEx cannot be inserted")
    if find_moex(model) is not None:
        raise ValueError("model already holds MoEx; call remove_moex(model) first")
    if hasattr(model, "moex"):
        raise ValueError(f"{type(model).__name__} has an attribute 'moex' of its own, the name MoEx needs")


def _find_site(model: nn.Module, layer: str, known: dict[str, Site], channel_dim: int | None) -> Site:
    family = family_of(model)
    wanted = dict(family.aliases).get(layer, layer) if family else layer
    if wanted in known:
        return known[wanted]
    unread = unread_site(model)
    if unread is not None and layer in (unread.name, unread.module):
        raise ValueError(
            f"layer={layer!r}: the logits of {type(model).__name__} come from its class token alone, so exchanging "
            "the last patch tokens would change nothing; choose an earlier layer or another global_pool"
        )
    modules = {name for name, _ in model.named_modules() if name}
    if layer not in modules:
        near = difflib.get_close_matches(str(layer), [*known, *modules], 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"layer={layer!r} is no site of {type(model).__name__}: expected one of {', '.join(known)}, "
            f"or the dotted path of a module.{hint}"
        )
    if channel_dim is not None:
        return Site(layer, layer, "output", "NC..." if channel_dim == 1 else "N...C")
    for site in known.values():
        if (site.module, site.at) == (layer, "output"):
            return replace(site, name=layer)
    if family is None or family.inside is None:
        raise ValueError(
            f"layer={layer!r}: timm_moex does not know where this module of {type(model).__name__} has its channels; "
            f"give channel_dim=1 or -1, or one of its sites: {', '.join(known)}"
        )
    return Site(layer, layer, "output", family.inside, norm=known[family.layer].norm)


def _called_module(model: nn.Module, site: Site) -> nn.Module:
    """The module to hook. A ModuleList is never called, and `checkpoint_seq` calls but the children of a Sequential:
    take the first or last of them."""
    module = model.get_submodule(site.module)
    while len(children := list(module.children())) and (
        isinstance(module, nn.ModuleList) or type(module).forward is nn.Sequential.forward
    ):
        module = children[-1 if site.at == "output" else 0]
    return module


def insert_moex(
    model: nn.Module,
    layer: str | Sequence[str] | None = None,
    *,
    norm: str | None = None,
    eps: float = 1e-5,
    positive_only: bool = False,
    moments: str = "both",
    lam: float = 0.9,
    prob: float = 1.0,
    channel_dim: int | None = None,
) -> nn.Module:
    """Give a model a MoEx insertion point; its class, parameters and `state_dict` keys stay its own.

    Afterwards `model(x)` computes what it did before, and `model(x, swap_index=idx)` exchanges the moments of each
    sample's features for those of sample `idx[i]`, exactly once, or raises. With several layers the call names one:
    `model(x, swap_index=idx, swap_layer="stage1")`. Under gradient checkpointing run backward before the next forward:
    the segments are computed again with the latest `swap_index`.

    Args:
        model: The bare model (not wrapped, not compiled); changed in place.
        layer: A site of `moex_sites(model)`, a dotted module path, or several of them. Default: the family's, see
            `timm_moex.sites`.
        norm: Axes of the moments, see `moment_exchange`. Default: the site's, see `moex_sites`.
        eps: Added to the variance.
        positive_only: Moments of the positive entries alone.
        moments: "both", "mean" or "std".
        lam: Weight of a sample's own label in the loss.
        prob: Probability that `MoExTask` exchanges a batch.
        channel_dim: 1 or -1; needed only for the path of a module whose layout timm_moex does not know.

    Returns:
        `model`.

    Raises:
        TypeError: `model` is no module, is wrapped, compiled or scripted.
        ValueError: Unknown layer (the message lists the sites) or setting, or the model already holds MoEx.
    """
    _check_model(model)
    _check_fraction("lam", lam)
    _check_fraction("prob", prob)
    if channel_dim not in (None, 1, -1):
        raise ValueError(f"channel_dim={channel_dim}: expected 1 or -1")
    family, known = family_of(model), moex_sites(model)
    if layer is None:
        layer = family.layer if family else next(iter(known), None)
        if layer is None:
            raise ValueError(f"{type(model).__name__} is unknown to timm_moex; give layer= and channel_dim=")
    layers = [layer] if isinstance(layer, str) else list(layer)
    sites = [_find_site(model, name, known, channel_dim) for name in layers]
    if not sites or len({site.name for site in sites}) < len(sites):
        raise ValueError(f"layer={layer!r}: expected one or more different layers")
    settings = dict(eps=eps, positive_only=positive_only, moments=moments)
    exchanges = [SiteExchange(site, norm=norm or site.norm, **settings) for site in sites]
    moex = MoEx(exchanges, dict(family.aliases) if family else {}, lam, prob)
    _hook(model, moex)
    model.moex = moex
    return model


def _hook(model: nn.Module, moex: MoEx) -> None:
    for exchange in moex.sites:
        module = _called_module(model, exchange.site)
        if exchange.site.at == "input":
            moex.handles.append(module.register_forward_pre_hook(exchange.input_hook))
        else:
            moex.handles.append(module.register_forward_hook(exchange.output_hook))
    moex.handles.append(model.register_forward_pre_hook(moex.begin, with_kwargs=True))
    moex.handles.append(model.register_forward_hook(moex.finish, always_call=True))
    moex.train(model.training)


def remove_moex(model: nn.Module) -> nn.Module:
    """Take MoEx out of a model again.

    Args:
        model: A bare model that holds MoEx; changed in place.

    Returns:
        `model`.

    Raises:
        ValueError: The model holds no MoEx.
    """
    moex = find_moex(model)
    if moex is None:
        raise ValueError(f"{type(model).__name__} holds no MoEx")
    for handle in moex.handles:
        handle.remove()
    del unwrap_model(model).moex
    return model
