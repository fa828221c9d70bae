"""Resolve a layer name to a site, and a site to the module to hook."""

from dataclasses import replace

from timm.models import FeatureInfo
from torch import nn

from ..utils.messages import did_you_mean
from .sites import KnownSites, Site, known_sites

__all__ = ["called_module", "find_site", "twin_hint"]

_LAYERS_2D = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


def find_site(model: nn.Module, layer: str, known: KnownSites, channel_dim: int | None) -> Site:
    """Find a site by its name, an alias or the dotted path of a module.

    Raises:
        ValueError: The site does not exist, or its layout is unknown or contradicts `channel_dim`.
    """
    if site := known.by_name.get(known.resolve_alias(layer)):
        return _with_layout(site, channel_dim)
    if known.ineffective is not None and layer in (known.ineffective.name, known.ineffective.module):
        raise ValueError(
            f"layer={layer!r}: the logits of {type(model).__name__} depend only on its class token, so exchanging "
            "the last patch tokens would have no effect; choose an earlier layer or another global_pool"
        )
    modules = {name for name, _ in model.named_modules(remove_duplicate=False) if name}
    if layer not in modules:
        sites = f"one of {', '.join(known.by_name)}, or " if known.by_name else ""
        raise ValueError(
            f"layer={layer!r} is not a site of {type(model).__name__}: expected {sites}the dotted path of a module"
            f"{did_you_mean(layer, [*known.by_name, *modules])}{twin_hint(model)}"
        )
    if inner := _site_of_inner_model(model, layer, channel_dim):
        return inner
    for site in known.by_name.values():
        if (site.module, site.hook_on) == (layer, "output"):
            return _with_layout(replace(site, name=layer), channel_dim)
    layout, channels = _layout_of(model.get_submodule(layer), known)
    if channel_dim is not None and (layout is None or channels is not None):
        return Site(layer, layer, "output", "NC..." if channel_dim == 1 else "N...C")
    if layout is None:
        raise ValueError(
            f"layer={layer!r}: the channel dimension of this module of {type(model).__name__} is unknown; "
            "pass channel_dim=1 or -1 to insert_moex"
            + (f", or one of its sites: {', '.join(known.by_name)}" if known.by_name else "")
        )
    norm = known.by_name[known.family.layer].norm if known.family else "pono"
    return _with_layout(Site(layer, layer, "output", layout, norm=norm, channels=channels, strict=False), channel_dim)


def twin_hint(model: nn.Module) -> str:
    """Return a hint on how to get the named sites of an architecture in a feature extractor."""
    if not isinstance(getattr(model, "feature_info", None), FeatureInfo):
        return ""
    return "; to use stem and stages, create the extractor as a twin: timm.create_model('moex_…', features_only=True)"


def _site_of_inner_model(model: nn.Module, layer: str, channel_dim: int | None) -> Site | None:
    """Find a site in the table of the timm model that contains the module and is part of the user's model."""
    for dot in (at for at, character in enumerate(layer) if character == "."):
        prefix, rest = layer[:dot], layer[dot + 1 :]
        owner = model.get_submodule(prefix)
        if (known := known_sites(owner)).family is not None:
            site = find_site(owner, rest, known, channel_dim)
            return replace(site, name=layer, module=f"{prefix}.{site.module}")
    return None


def _with_layout(site: Site, channel_dim: int | None) -> Site:
    """Return the site, or raise ValueError if the caller's channel_dim contradicts its layout."""
    if channel_dim in (None, site.channel_dim):
        return site
    raise ValueError(
        f"channel_dim={channel_dim}: the {site.hook_on} of {site.module} (layer={site.name!r}) is {site.layout}, with "
        f"channel_dim={site.channel_dim}; leave channel_dim out"
    )


def _layout_of(module: nn.Module, known: KnownSites) -> tuple[str | None, int | None]:
    """Return the layout of a module's output and, if the layout is only presumed, the expected number of channels.

    A block that contains only 2d layers is presumed to be NCHW; the number of channels is checked in use.
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
    """Return the module to hook for a site.

    A ModuleList is never called, and `checkpoint_seq` calls only the children of a Sequential, so the first or last
    child is hooked instead.
    """
    module = model.get_submodule(site.module)
    while len(children := list(module.children())) and (
        isinstance(module, nn.ModuleList) or type(module).forward is nn.Sequential.forward
    ):
        module = children[-1 if site.hook_on == "output" else 0]
    return module
