"""`insert_moex`: from a site's name to its module, and the hooks onto it."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.utils import ModelEma, ModelEmaV2, ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..utils.checks import check_model
from .find import find_moex, holds_moex, hooks_of
from .locate import called_module, find_site, twin_hint
from .model_forward import ModelForward
from .moex import MoEx
from .presets import Preset, find_preset
from .sites import KnownSites, Site, known_sites

__all__ = ["hook_moex", "insert_into_features", "insert_moex", "plan_moex", "remove_moex"]

_WRAPPERS = (nn.DataParallel, DistributedDataParallel, ModelEma, ModelEmaV2, ModelEmaV3)


def _check_model(model: nn.Module) -> None:
    check_model(model)
    in_place = model._compiled_call_impl is not None
    if isinstance(model, _WRAPPERS) or type(model).__name__ == "OptimizedModule" or in_place:
        how = "compiled by model.compile()" if in_place else f"wrapped in {type(model).__name__}"
        raise TypeError(f"model is {how}; insert MoEx into the bare model, then wrap or compile it")
    if type(model).__name__.startswith("TimmWrapper") and isinstance(getattr(model, "timm_model", None), nn.Module):
        raise TypeError(
            f"model is a {type(model).__name__} of transformers, which has no site; insert MoEx into model.timm_model"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model is a TorchScript module; hooks cannot be scripted, so MoEx cannot be inserted")
    if holds_moex(model):
        raise ValueError("model already holds MoEx; call remove_moex(model) first")
    if hasattr(model, "moex"):
        raise ValueError(f"{type(model).__name__} has an attribute 'moex' of its own, the name MoEx needs")


def insert_moex(
    model: nn.Module,
    layer: str | Sequence[str] | None = None,
    *,
    preset: str = "moex",
    channel_dim: int | None = None,
    **settings: Any,
) -> nn.Module:
    """Give a model a MoEx insertion point, in place: it then exchanges while it trains.

    Parameters, `state_dict` keys, modules and the class of the model stay as they are. With `lam=1` (every preset but
    "moex") a training forward draws and exchanges; with `lam` < 1 it does so once a `MoExLoss` is bound to the model,
    since the labels must be mixed. `model(x, swap_index=...)` exchanges exactly once, or raises an error, and
    `model(x, swap_index=None)` exchanges nothing. So do evaluation and forwards without gradients.

    Args:
        model: A timm model, or any module if `layer` is a dotted path; not wrapped or compiled.
        layer: A site of the model (see `moex_sites`), a stage name of the paper (`C2` … `C5` in ResNets), or the dotted
            path of a module, whose output is exchanged; or several of them. Default: the preset's.
        preset: "moex", "padain", "mixstyle", "freq_mixstyle" or "efdmix", see `timm_moex.insertion.presets`; the
            default of every setting.
        channel_dim: 1 or -1; needed only for the path of a module whose layout timm_moex does not know. 2d
            convolutions, batch norms and pools define it, and so does a block of them. What is given here decides.
        **settings: Of `MoExSettings`: norm, eps, positive_only, moments, detach, match, alpha, each_site, lam, prob,
            off_epoch, ramp_epochs.

    Returns:
        `model`.

    Raises:
        TypeError: `model` is no module, is wrapped, compiled or scripted; or there is no such setting.
        ValueError: Unknown layer (the message lists the sites) or preset, a setting out of range, settings that
            contradict each other, or the model already holds MoEx.

    Example:
        >>> import timm
        >>> model = insert_moex(timm.create_model("resnet18", num_classes=10), "stage1", norm="in")
        >>> x, swap_index = torch.randn(2, 3, 64, 64), torch.tensor([1, 0])
        >>> model(x, swap_index=swap_index).shape
        torch.Size([2, 10])
    """
    _check_model(model)
    moex = plan_moex(model, layer, preset=preset, channel_dim=channel_dim, **settings)
    hook_moex(model, moex, [called_module(model, exchange.site) for exchange in moex.sites])
    return model


def plan_moex(
    model: nn.Module,
    layer: str | Sequence[str] | None = None,
    *,
    preset: str = "moex",
    channel_dim: int | None = None,
    **overrides: Any,
) -> MoEx:
    """Make the MoEx that `insert_moex` would put into a model with these arguments; the model is not changed."""
    chosen = find_preset(preset)
    settings = chosen.settings(**overrides)
    if channel_dim not in (None, 1, -1):
        raise ValueError(f"channel_dim={channel_dim}: expected 1 or -1")
    known = known_sites(model)
    layers = _default_layers(model, chosen, known) if layer is None else layer
    layers = [layers] if isinstance(layers, str) else list(layers)
    sites = [find_site(model, name, known, channel_dim) for name in layers]
    if not sites or len({site.name for site in sites}) < len(sites):
        raise ValueError(f"layer={layer!r}: expected one or more different layers")
    if settings.norm == "freq":
        _check_frequencies(model, sites, known)
    if settings.each_site and settings.lam < 1 and len(sites) > 1:
        raise ValueError(
            f"each_site=True with lam={settings.lam} at {len(sites)} sites: labels are mixed by one permutation, "
            "and each site would draw its own; give lam=1 or each_site=False"
        )
    return MoEx(sites, known.aliases, settings, preset)


def _check_frequencies(model: nn.Module, sites: Sequence[Site], known: KnownSites) -> None:
    for site in sites:
        where = f"norm='freq': {site.name} of {type(model).__name__}"
        if site.layout == "NLC":
            raise ValueError(f"{where} has tokens, not frequency and time")
        if known.family is not None and site.norm == "in":
            raise ValueError(f"{where} is followed by a LayerNorm over the channels, which undoes the exchange")


def _default_layers(model: nn.Module, preset: Preset, known: KnownSites) -> str | list[str]:
    if known.default_layer is None:
        name = type(model).__name__
        raise ValueError(f"{name} is unknown to timm_moex; give layer= and channel_dim={twin_hint(model)}")
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
    """Hook the exchanges, one on each module, and give the model its `forward`.

    Args:
        model: The model that holds the MoEx.
        moex: What `plan_moex` made.
        modules: For each exchange the module whose input or output it takes.

    Raises:
        ValueError: Two sites are one module, which would exchange twice.
    """
    paths = {module: path for path, module in model.named_modules(remove_duplicate=False)}
    for number, (module, exchange) in enumerate(zip(modules, moex.sites)):
        for earlier, other in zip(modules[:number], moex.sites):
            if earlier is module and other.site.hook_on == exchange.site.hook_on:
                raise ValueError(
                    f"layers {other.site.name!r} and {exchange.site.name!r} are one module of {type(model).__name__}, "
                    "which would exchange twice; give one of them"
                )
    for module, exchange in zip(modules, moex.sites):
        if exchange.site.hook_on == "input":
            module.register_forward_pre_hook(exchange.input_hook)
        else:
            module.register_forward_hook(exchange.output_hook)
    model.moex = moex  # type: ignore[assignment]
    ModelForward(model, moex, [(paths[module], module) for module in modules]).install()


def insert_into_features(net: nn.Module, backbone: nn.Module, **settings: Any) -> nn.Module:
    """Give timm's FeatureListNet, FeatureDictNet, FeatureHookNet or FeatureGetterNet a MoEx insertion point.

    Args:
        net: The feature extractor; changed in place.
        backbone: The architecture it was built from, with the same arguments; on the meta device will do.
        **settings: Of `insert_moex`.

    Returns:
        `net`.

    Raises:
        ValueError: As for `insert_moex`, or the site is not among the layers that `net` kept.
    """
    moex = plan_moex(backbone, **settings)
    hook_moex(net, moex, [_module_in(net, backbone, exchange.site) for exchange in moex.sites])
    return net


def _module_in(net: nn.Module, backbone: nn.Module, site: Site) -> nn.Module:
    """Return the module of a site in a net that renames, flattens or wraps the backbone's layers."""
    called = called_module(backbone, site)
    path = next(path for path, module in backbone.named_modules() if module is called)
    modules = dict(net.named_modules())
    for renamed in (path, path.replace(".", "_", 1), f"model.{path}", f"body.{path}"):
        if renamed in modules:
            return modules[renamed]
    raise ValueError(
        f"layer={site.name!r}: {type(net).__name__} has no module {path}, which carries this site; choose an earlier "
        "layer or other out_indices"
    )


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
    for module in model.modules():
        for registered, key, exchange in hooks_of(module):
            if exchange.moex is moex:
                del registered[key]
        if module.__dict__.get("moex") is moex:
            del module.moex
            ModelForward.uninstall(module)
    return model
