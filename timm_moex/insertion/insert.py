"""`insert_moex`: find the module of each site and register the hooks that exchange there."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.utils import ModelEma, ModelEmaV2, ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..utils.checks import check_model
from .find import all_moex, hooks_of, require_moex
from .locate import called_module, find_site, twin_hint
from .model_forward import ModelForward
from .moex import MoExInsertion
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
            f"model is a {type(model).__name__} from transformers, which has no sites; insert MoEx into "
            "model.timm_model"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model is a TorchScript module, which has no hooks; insert MoEx into the original nn.Module")
    if all_moex(model):
        raise ValueError("model already has MoEx; call remove_moex(model) first")
    if hasattr(model, "moex"):
        raise ValueError(f"{type(model).__name__} already has an attribute 'moex', which MoEx needs; rename it")


def insert_moex(
    model: nn.Module,
    layer: str | Sequence[str] | None = None,
    *,
    preset: str = "moex",
    channel_dim: int | None = None,
    **settings: Any,
) -> nn.Module:
    """Insert MoEx into a model in place, so that the model exchanges moments during training.

    The model's class, modules, parameters and `state_dict` keys do not change. With `lam=1` (every preset except
    "moex"), each training forward draws and exchanges. With `lam` < 1 the labels must be mixed as well, so the model
    draws only after a `MoExLoss` is bound to it. `model(x, swap_index=...)` exchanges exactly once or raises an error.
    `model(x, swap_index=None)`, evaluation and forwards without gradients exchange nothing.

    Args:
        model: A timm model, or any module if `layer` is a dotted path; not wrapped or compiled.
        layer: A site of the model (see `moex_sites`), a stage name from the paper (`C2` … `C5` in ResNets), or the
            dotted path of a module whose output is exchanged. Pass a list for several layers. Default: the preset's.
        preset: "moex", "padain", "mixstyle", "freq_mixstyle" or "efdmix", see `timm_moex.insertion.presets`. It
            sets the default of every setting.
        channel_dim: 1 or -1. Needed only if `layer` is the path of a module whose layout is unknown. The
            layout is known for 2d convolutions, batch norms and pools, where another value is an error. It is presumed
            for blocks of these; `channel_dim` then takes precedence.
        **settings: Fields of `MoExSettings`: norm, eps, positive_only, moments, detach, match, alpha, per_site, lam,
            prob, off_epoch, warmup_epochs.

    Returns:
        `model`.

    Raises:
        TypeError: `model` is not a module, or is wrapped, compiled or scripted; or a setting does not exist.
        ValueError: Unknown layer (the message lists the sites) or preset, a setting out of range, settings that
            contradict each other, or the model already has MoEx.

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
) -> MoExInsertion:
    """Build the MoEx that `insert_moex` would insert with these arguments, without changing the model."""
    chosen = find_preset(preset)
    settings = chosen.settings(**overrides)
    if channel_dim not in (None, 1, -1):
        raise ValueError(f"channel_dim={channel_dim}: expected 1 or -1")
    known = known_sites(model)
    layers = _default_layers(model, chosen, known) if layer is None else layer
    layers = [layers] if isinstance(layers, str) else list(layers)
    sites = [find_site(model, name, known, channel_dim) for name in layers]
    if not sites or len({site.name for site in sites}) < len(sites):
        raise ValueError(f"layer={layer!r}: expected one or more layers, each once")
    if settings.norm == "freq":
        _check_frequencies(model, sites, known)
    if settings.per_site and settings.lam < 1 and len(sites) > 1:
        raise ValueError(
            f"per_site=True with lam={settings.lam} at {len(sites)} sites: labels are mixed with one permutation, "
            "but each site would draw its own; set lam=1 or per_site=False"
        )
    return MoExInsertion(sites, known.aliases, settings, preset)


def _check_frequencies(model: nn.Module, sites: Sequence[Site], known: KnownSites) -> None:
    for site in sites:
        where = f"norm='freq': {site.name} of {type(model).__name__}"
        if site.layout == "NLC":
            raise ValueError(f"{where} contains tokens, which have no frequency and time axes")
        if known.family is not None and site.norm == "in":
            raise ValueError(f"{where} is followed by a LayerNorm over channels, which undoes the exchange")


def _default_layers(model: nn.Module, preset: Preset, known: KnownSites) -> str | list[str]:
    if known.default_layer is None:
        name = type(model).__name__
        raise ValueError(f"timm_moex has no default layer for {name}; pass layer= and channel_dim={twin_hint(model)}")
    names = list(known.by_name)
    if preset.layers == "default":
        return known.default_layer
    if preset.layers == "stem":
        return names[0]
    if preset.layers == "all":
        return names
    stages = [name for name in names if name != "stem"]
    return stages[: max(1, min(3, len(stages) - 1))]


def hook_moex(model: nn.Module, moex: MoExInsertion, modules: Sequence[nn.Module]) -> None:
    """Register the exchange of each site on its module and replace the model's `forward`.

    Raises:
        ValueError: Two sites are the same module, which would exchange twice.
    """
    paths = {module: path for path, module in model.named_modules(remove_duplicate=False)}
    names: dict[tuple[nn.Module, str], str] = {}
    for module, exchange in zip(modules, moex.sites):
        name, earlier = exchange.site.name, names.get((module, exchange.site.hook_on))
        if earlier is not None:
            raise ValueError(
                f"layers {earlier!r} and {name!r} are the same module of {type(model).__name__}, which would exchange "
                "twice; pass only one of them"
            )
        names[module, exchange.site.hook_on] = name
    for module, exchange in zip(modules, moex.sites):
        if exchange.site.hook_on == "input":
            module.register_forward_pre_hook(exchange.input_hook)
        else:
            module.register_forward_hook(exchange.output_hook)
    model.moex = moex  # type: ignore[assignment]
    ModelForward(model, moex, [(paths[module], module) for module in modules]).install()


def insert_into_features(net: nn.Module, backbone: nn.Module, **settings: Any) -> nn.Module:
    """Insert MoEx into timm's FeatureListNet, FeatureDictNet, FeatureHookNet or FeatureGetterNet, in place.

    `backbone` is the model that the extractor was built from, created with the same arguments; it may be on the meta
    device. A site whose layer `net` did not keep raises a ValueError.
    """
    moex = plan_moex(backbone, **settings)
    hook_moex(net, moex, [_module_in(net, backbone, exchange.site) for exchange in moex.sites])
    return net


def _module_in(net: nn.Module, backbone: nn.Module, site: Site) -> nn.Module:
    """Return a site's module in a net that renames, flattens or wraps the backbone's layers."""
    called = called_module(backbone, site)
    path = next(path for path, module in backbone.named_modules() if module is called)
    modules = dict(net.named_modules())
    for renamed in (path, path.replace(".", "_", 1), f"model.{path}", f"body.{path}"):
        if renamed in modules:
            return modules[renamed]
    raise ValueError(
        f"layer={site.name!r}: {type(net).__name__} does not contain {path}, the module of this site; choose an "
        "earlier layer or different out_indices"
    )


def remove_moex(model: nn.Module) -> nn.Module:
    """Remove MoEx from a model.

    Args:
        model: A model with MoEx, at any depth; changed in place.

    Returns:
        `model`.

    Raises:
        ValueError: The model has no MoEx.

    Example:
        >>> import timm, timm_moex
        >>> model = timm.create_model("moex_resnet18")
        >>> timm_moex.find_moex(timm_moex.remove_moex(model)) is None
        True
    """
    moex = require_moex(model)
    for module in model.modules():
        for registered, key, exchange in hooks_of(module):
            if exchange.moex is moex:
                del registered[key]
        if module.__dict__.get("moex") is moex:
            del module.moex
            ModelForward.uninstall(module)
    return model
