"""`insert_moex`: from a site's name to its module, and the hooks onto it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from timm.utils import unwrap_model
from torch import nn

from ..utils.checks import check_fraction, check_model
from ..utils.messages import nearest
from .find import find_moex, holds_moex
from .moex import MoEx, SiteExchange
from .presets import Preset, find_preset
from .sites import KnownSites, Site, known_sites

__all__ = ["called_module", "hook_moex", "insert_moex", "plan_moex", "remove_moex"]

_LAYERS_2D = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


def _check_model(model: nn.Module) -> None:
    check_model(model)
    if unwrap_model(model) is not model or isinstance(model, nn.DataParallel):
        raise TypeError(
            f"model is wrapped in {type(model).__name__}; insert MoEx into the bare model, then wrap or compile it"
        )
    if type(model).__name__.startswith("TimmWrapper") and isinstance(getattr(model, "timm_model", None), nn.Module):
        raise TypeError(
            f"model is a {type(model).__name__} of transformers, which has no site; insert MoEx into model.timm_model "
            "and exchange in the wrapper's call within timm_moex.exchanging(model, swap_index)"
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
    preset: str = "moex",
    norm: str | None = None,
    eps: float | None = None,
    positive_only: bool | None = None,
    moments: str | None = None,
    detach: str | None = None,
    match: str | None = None,
    lam: float | None = None,
    prob: float | None = None,
    alpha: float | None = None,
    each_site: bool | None = None,
    off_epoch: int = 0,
    ramp_epochs: int = 0,
    channel_dim: int | None = None,
) -> nn.Module:
    """Give a model a MoEx insertion point; its class, parameters and `state_dict` keys stay its own.

    Afterwards `model(x)` computes what it did before, and `model(x, swap_index=idx)` exchanges the moments of each
    sample's features for those of sample `idx[i]`, exactly once, or raises. With several layers the call names one,
    `model(x, swap_index=idx, swap_layer="stage1")`, or gives donors for each: `swap_index={"stage1": i, "stage2": j}`.
    `own_share`, (B,), mixes a sample's own moments in. Other ways through the model exchange inside `exchanging`.

    Args:
        model: The bare model (not wrapped, not compiled); changed in place.
        layer: A site of `moex_sites(model)`, a dotted module path, or several of them. Default: the preset's; of the
            preset "moex" that of the model's family, see `timm_moex.insertion.families`.
        preset: "moex", "padain", "mixstyle", "freq_mixstyle" or "efdmix", see `timm_moex.insertion.presets`; the
            default of every setting that is None below.
        norm: Axes of the moments, see `moment_exchange`; of the preset "moex" the site's, see `moex_sites`.
        eps: Added to the variance.
        positive_only: Moments of the positive entries alone.
        moments: "both", "mean" or "std".
        detach: "none", "donor" or "both": the moments that count as constants for the gradient.
        match: "moments", or "distribution" for `match_distribution`.
        lam: Weight of a sample's own label in the loss.
        prob: Probability that `MoExTask` exchanges a batch, or with `each_site` a batch at one site.
        alpha: `MoExTask` draws the share of a sample's own moments from Beta(alpha, alpha); 0 for none.
        each_site: Whether `MoExTask` draws a coin and a permutation for each site, or one of the sites for a batch.
        off_epoch: `MoExTask` exchanges nothing from this epoch on, counted from 0; 0 for never.
        ramp_epochs: `MoExTask` raises the probability linearly to `prob` over so many epochs; 0 for none.
        channel_dim: 1 or -1; needed only for the path of a module whose layout timm_moex does not know. 2d
            convolutions, batch norms and pools define it, and so does a block of them.

    Returns:
        `model`.

    Raises:
        TypeError: `model` is no module, is wrapped, compiled or scripted.
        ValueError: Unknown layer (the message lists the sites), preset or setting, settings that do not go together,
            or the model already holds MoEx.

    Example:
        >>> import timm
        >>> model = insert_moex(timm.create_model("resnet18", num_classes=10), "stage1", norm="in")
        >>> x, swap_index = torch.randn(2, 3, 64, 64), torch.tensor([1, 0])
        >>> model(x, swap_index=swap_index).shape
        torch.Size([2, 10])
    """
    _check_model(model)
    moex = plan_moex(
        model, layer, preset=preset, norm=norm, eps=eps, positive_only=positive_only, moments=moments, detach=detach,
        match=match, lam=lam, prob=prob, alpha=alpha, each_site=each_site, off_epoch=off_epoch, ramp_epochs=ramp_epochs,
        channel_dim=channel_dim,
    )  # fmt: skip
    hook_moex(model, moex, [called_module(model, exchange.site) for exchange in moex.sites])
    model.moex = moex
    return model


def plan_moex(
    model: nn.Module,
    layer: str | Sequence[str] | None = None,
    *,
    preset: str = "moex",
    channel_dim: int | None = None,
    **overrides: Any,
) -> MoEx:
    """The MoEx that `insert_moex` would put into a model with these arguments; the model is not changed."""
    chosen = find_preset(preset)
    settings = chosen.with_overrides(overrides)
    _check_settings(settings)
    if channel_dim not in (None, 1, -1):
        raise ValueError(f"channel_dim={channel_dim}: expected 1 or -1")
    known = known_sites(model)
    layers = _default_layers(model, chosen, known) if layer is None else layer
    layers = [layers] if isinstance(layers, str) else list(layers)
    sites = [_find_site(model, name, known, channel_dim) for name in layers]
    if not sites or len({site.name for site in sites}) < len(sites):
        raise ValueError(f"layer={layer!r}: expected one or more different layers")
    norm = settings.pop("norm")
    if norm == "freq":
        _check_frequencies(model, sites, known)
    if settings["each_site"] and settings["lam"] < 1 and len(sites) > 1:
        raise ValueError(
            f"each_site=True with lam={settings['lam']} at {len(sites)} sites: labels are mixed by one permutation, "
            "and each site would draw its own; give lam=1 or each_site=False"
        )
    of_moex = {key: settings.pop(key) for key in _OF_MOEX if key in settings}
    exchanges = [SiteExchange(site, norm=site.norm if norm is None else norm, **settings) for site in sites]
    return MoEx(exchanges, known.aliases, preset=preset, **of_moex)


# Settings of the MoEx; the others are those of each exchange
_OF_MOEX = ("lam", "prob", "alpha", "each_site", "off_epoch", "ramp_epochs")


def _check_settings(settings: Mapping[str, Any]) -> None:
    check_fraction("lam", settings["lam"])
    check_fraction("prob", settings["prob"])
    alpha = settings["alpha"]
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 <= alpha < math.inf:
        raise ValueError(f"alpha={alpha!r}: expected a finite number >= 0")
    if not isinstance(settings["each_site"], bool):
        raise ValueError(f"each_site={settings['each_site']!r}: expected True or False")
    for name in ("off_epoch", "ramp_epochs"):
        epochs = settings.get(name, 0)
        if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
            raise ValueError(f"{name}={epochs!r}: expected a whole number >= 0")


def _check_frequencies(model: nn.Module, sites: Sequence[Site], known: KnownSites) -> None:
    for site in sites:
        where = f"norm='freq': {site.name} of {type(model).__name__}"
        if site.layout == "NLC":
            raise ValueError(f"{where} has tokens, not frequency and time")
        if known.family is not None and site.norm == "in":
            raise ValueError(f"{where} is followed by a LayerNorm over the channels, which undoes the exchange")


def _default_layers(model: nn.Module, preset: Preset, known: KnownSites) -> str | list[str]:
    if known.default_layer is None:
        raise ValueError(f"{type(model).__name__} is unknown to timm_moex; give layer= and channel_dim=")
    names = list(known.by_name)
    if preset.layers == "default":
        return known.default_layer
    if preset.layers == "stem":
        return names[0]
    if preset.layers == "all":
        return names
    stages = [name for name in names if name != "stem"]
    return stages[: max(1, min(3, len(stages) - 1))]


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
