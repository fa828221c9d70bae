"""MoEx in a feature extractor, which timm's `features_only=True` builds from the layers of a backbone."""

from typing import Any

from torch import nn

from .insert import called_module, hook_moex, plan_moex
from .sites import Site

__all__ = ["insert_into_features"]


def insert_into_features(net: nn.Module, backbone: nn.Module, **settings: Any) -> nn.Module:
    """Give timm's FeatureListNet, FeatureDictNet, FeatureHookNet or FeatureGetterNet a MoEx insertion point.

    Afterwards `net(x, swap_index=...)` and a call inside `exchanging` exchange, as they do with a whole model.

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
    # A ModuleDict of layers calls every child, so MoEx stays out of it; the hooks hold it.
    if not isinstance(net, nn.ModuleDict):
        net.moex = moex
    return net


def _module_in(net: nn.Module, backbone: nn.Module, site: Site) -> nn.Module:
    """The module of a site in a net that renames, flattens or wraps the backbone's layers."""
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
