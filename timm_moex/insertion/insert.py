"""`insert_moex`: from a site's name to its module, and the hooks onto it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from timm.utils import unwrap_model
from torch import nn

from ..utils.checks import check_fraction, check_model
from ..utils.messages import nearest
from .find import find_moex, holds_moex
from .moex import MoEx, SiteExchange
from .sites import KnownSites, Site, known_sites

__all__ = ["called_module", "hook_moex", "insert_moex", "plan_moex", "remove_moex"]

_LAYERS_2D = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


def _check_model(model: nn.Module) -> None:
    check_model(model)
    if unwrap_model(model) is not model or isinstance(model, nn.DataParallel):
        raise TypeError(
            f"model is wrapped in {type(model).__name__}; insert MoEx into the bare model, then wrap or compile it"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model is a TorchScript module; hooks cannot be scripted, so MoEx cannot be inserted")
    if holds_moex(model):
        raise ValueError("model already holds MoEx; call remove_moex(model) first")
    if hasattr(model, "moex"):
        raise ValueError(f"{type(model).__name__} has an attribute 'moex' of its own, the name MoEx needs")


def _find_site(model: nn.Module, layer: str, known: KnownSites, channel_dim: int | None) -> Site:
    if site := known.by_name.get(known.resolve_alias(layer)):
        return _checked_layout(site, layer, channel_dim)
    if known.ineffective is not None and layer in (known.ineffective.name, known.ineffective.module):
        raise ValueError(
            f"layer={layer!r}: the logits of {type(model).__name__} come from its class token alone, so exchanging "
            "the last patch tokens would change nothing; choose an earlier layer or another global_pool"
        )
    modules = {name for name, _ in model.named_modules() if name}
    if layer not in modules:
        raise ValueError(
            f"layer={layer!r} is no site of {type(model).__name__}: expected one of {', '.join(known.by_name)}, "
            f"or the dotted path of a module{nearest(layer, [*known.by_name, *modules])}"
        )
    for site in known.by_name.values():
        if (site.module, site.hook_on) == (layer, "output"):
            return _checked_layout(replace(site, name=layer), layer, channel_dim)
    layout, channels = _layout_of(model.get_submodule(layer), known)
    if layout is None and channel_dim is None:
        raise ValueError(
            f"layer={layer!r}: timm_moex does not know where this module of {type(model).__name__} has its channels; "
            f"give channel_dim=1 or -1, or one of its sites: {', '.join(known.by_name)}"
        )
    if layout is None:
        return Site(layer, layer, "output", "NC..." if channel_dim == 1 else "N...C")
    norm = known.by_name[known.family.layer].norm if known.family else "pono"
    return _checked_layout(Site(layer, layer, "output", layout, norm=norm, channels=channels), layer, channel_dim)


def _checked_layout(site: Site, layer: str, channel_dim: int | None) -> Site:
    if channel_dim not in (None, site.channel_dim):
        raise ValueError(
            f"channel_dim={channel_dim}: the {site.hook_on} of {site.module} (layer={layer!r}) is {site.layout}, with "
            f"channel_dim={site.channel_dim}; leave channel_dim out"
        )
    return site


def _layout_of(module: nn.Module, known: KnownSites) -> tuple[str | None, int | None]:
    """The layout of a module's output, and the channels to insist on where it is not sure by definition.

    The family or the module's own class defines it. A block of 2d layers alone is taken to have it too, if the features
    then have as many channels as its last layer, along no other axis as well.
    """
    if known.family is not None and known.family.interior_layout is not None:
        return known.family.interior_layout, None
    while type(module).forward is nn.Sequential.forward and len(module) > 0:  # type: ignore[arg-type]
        module = module[-1]  # type: ignore[index]
    if isinstance(module, _LAYERS_2D):
        return "NCHW", None
    with_parameters = [layer for layer in module.modules() if layer._parameters]
    if with_parameters and all(isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)) for layer in with_parameters):
        last = with_parameters[-1]
        return "NCHW", last.num_features if isinstance(last, nn.BatchNorm2d) else last.out_channels  # type: ignore
    return None, None


def called_module(model: nn.Module, site: Site) -> nn.Module:
    """The module to hook for a site.

    A ModuleList is never called, and `checkpoint_seq` calls only the children of a Sequential: take the first or the
    last of them.
    """
    module = model.get_submodule(site.module)
    while len(children := list(module.children())) and (
        isinstance(module, nn.ModuleList) or type(module).forward is nn.Sequential.forward
    ):
        module = children[-1 if site.hook_on == "output" else 0]
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
    `model(x, swap_index=idx, swap_layer="stage1")`. Other ways through the model exchange inside `exchanging`.

    Args:
        model: The bare model (not wrapped, not compiled); changed in place.
        layer: A site of `moex_sites(model)`, a dotted module path, or several of them. Default: that of the model's
            family, see `timm_moex.insertion.families`.
        norm: Axes of the moments, see `moment_exchange`. Default: the site's, see `moex_sites`.
        eps: Added to the variance.
        positive_only: Moments of the positive entries alone.
        moments: "both", "mean" or "std".
        lam: Weight of a sample's own label in the loss.
        prob: Probability that `MoExTask` exchanges a batch.
        channel_dim: 1 or -1; needed only for the path of a module whose layout timm_moex does not know. 2d
            convolutions, batch norms and pools define it, and so does a block of them.

    Returns:
        `model`.

    Raises:
        TypeError: `model` is no module, is wrapped, compiled or scripted.
        ValueError: Unknown layer (the message lists the sites) or setting, or the model already holds MoEx.

    Example:
        >>> import timm
        >>> model = insert_moex(timm.create_model("resnet18", num_classes=10), "stage1", norm="in")
        >>> x, swap_index = torch.randn(2, 3, 64, 64), torch.tensor([1, 0])
        >>> model(x, swap_index=swap_index).shape
        torch.Size([2, 10])
    """
    _check_model(model)
    moex = plan_moex(
        model, layer, norm=norm, eps=eps, positive_only=positive_only, moments=moments, lam=lam, prob=prob,
        channel_dim=channel_dim,
    )  # fmt: skip
    hook_moex(model, moex, [called_module(model, exchange.site) for exchange in moex.sites])
    model.moex = moex
    return model


def plan_moex(
    model: nn.Module,
    layer: str | Sequence[str] | None = None,
    *,
    norm: str | None = None,
    lam: float = 0.9,
    prob: float = 1.0,
    channel_dim: int | None = None,
    **settings: Any,
) -> MoEx:
    """The MoEx that `insert_moex` would put into a model with these arguments; the model is not changed."""
    check_fraction("lam", lam)
    check_fraction("prob", prob)
    if channel_dim not in (None, 1, -1):
        raise ValueError(f"channel_dim={channel_dim}: expected 1 or -1")
    known = known_sites(model)
    if layer is None:
        layer = known.default_layer
        if layer is None:
            raise ValueError(f"{type(model).__name__} is unknown to timm_moex; give layer= and channel_dim=")
    layers = [layer] if isinstance(layer, str) else list(layer)
    sites = [_find_site(model, name, known, channel_dim) for name in layers]
    if not sites or len({site.name for site in sites}) < len(sites):
        raise ValueError(f"layer={layer!r}: expected one or more different layers")
    exchanges = [SiteExchange(site, norm=site.norm if norm is None else norm, **settings) for site in sites]
    return MoEx(exchanges, known.aliases, lam, prob)


def hook_moex(model: nn.Module, moex: MoEx, modules: Sequence[nn.Module]) -> None:
    """Hook the exchanges, one on each module, and the two hooks on the model itself.

    Args:
        model: The model whose calls take `swap_index`.
        moex: What `plan_moex` made.
        modules: For each exchange the module whose input or output it takes.
    """
    for module, exchange in zip(modules, moex.sites):
        if exchange.site.hook_on == "input":
            moex.handles.append(module.register_forward_pre_hook(exchange.input_hook))
        else:
            moex.handles.append(module.register_forward_hook(exchange.output_hook))
    moex.handles.append(model.register_forward_pre_hook(moex.begin, with_kwargs=True))
    moex.handles.append(model.register_forward_hook(moex.finish, always_call=True))
    moex.train(model.training)


def remove_moex(model: nn.Module) -> nn.Module:
    """Remove MoEx from a model.

    Args:
        model: A model that holds MoEx, at any depth; changed in place.

    Returns:
        `model`.

    Raises:
        ValueError: The model holds no MoEx.

    Example:
        >>> import timm, timm_moex
        >>> model = timm.create_model("moex_resnet18")
        >>> timm_moex.find_moex(timm_moex.remove_moex(model)) is None
        True
    """
    moex = find_moex(model)
    if moex is None:
        raise ValueError(f"{type(model).__name__} holds no MoEx")
    for handle in moex.handles:
        handle.remove()
    for module in model.modules():
        for name in [name for name, child in module.named_children() if child is moex]:
            delattr(module, name)
    return model
