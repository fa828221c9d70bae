"""Named sites at which a model can exchange, each with its module, layout and prefix tokens.

The layout of a site is listed in `families.py` and verified by the sweep over all architectures; it is never guessed
from a shape.
"""

import re
from dataclasses import dataclass
from typing import Any

from timm.models import FeatureInfo as ExtractorInfo
from torch import nn

from ..utils.checks import check_model
from .families import FAMILIES, Family, FeatureInfo, Hook

__all__ = ["CHANNEL_DIM", "KnownSites", "Site", "family_of", "known_sites", "moex_sites"]

CHANNEL_DIM = {"NCHW": 1, "NHWC": -1, "NLC": -1, "NC...": 1, "N...C": -1}


@dataclass(frozen=True)
class Site:
    """One place in a model where moments can be exchanged.

    Args:
        name: `stem`, `stage1`, … or the dotted path of the module.
        module: Dotted path of the module whose input or output is exchanged.
        hook_on: "input" or "output".
        layout: `NCHW`, `NHWC` or `NLC`; `NC...` or `N...C` if only the channel axis is known.
        prefix_tokens: Class and register tokens in front of the patch tokens of an NLC site; they are not
            exchanged.
        norm: Default norm. A LayerNorm over channels undoes `pono` but not `in`.
        tuple_entries: The entries to exchange if the module takes or returns a tuple or list.
        channels: Required number of channels if the layout is presumed; None if the table defines the layout.
        strict: Whether to reject features in which another axis also has size `channels`.
    """

    name: str
    module: str
    hook_on: str
    layout: str
    prefix_tokens: int = 0
    norm: str = "in"
    tuple_entries: slice | None = None
    channels: int | None = None
    strict: bool = True

    @property
    def channel_dim(self) -> int:
        """Axis of the channels, 1 or -1."""
        return CHANNEL_DIM[self.layout]


@dataclass(frozen=True)
class KnownSites:
    """Sites of a model, and its entry in the table."""

    family: Family | None  # None if the class is not in the table
    by_name: dict[str, Site]  # in forward order
    ineffective: Site | None  # the last stage, not in `by_name`, if the logits depend only on its class token

    @property
    def aliases(self) -> dict[str, str]:
        """Other accepted names of sites, such as the paper's C2 to C5 for a ResNet's stages."""
        return dict(self.family.aliases) if self.family else {}

    @property
    def default_layer(self) -> str | None:
        """Default site if the user gives no layer; None if the model has no known sites."""
        return self.family.layer if self.family else next(iter(self.by_name), None)

    def resolve_alias(self, layer: str) -> str:
        """Return the site that an alias refers to, or `layer` itself."""
        return self.aliases.get(layer, layer)


def family_of(model: nn.Module) -> Family | None:
    """Return the table's entry for a model's class or its nearest base class in timm or timm_moex, or None."""
    for cls in type(model).__mro__:
        if cls.__name__ in FAMILIES and cls.__module__.partition(".")[0] in ("timm", "timm_moex"):
            return FAMILIES[cls.__name__]
    return None


def known_sites(model: nn.Module) -> KnownSites:
    """Return a model's sites and its entry in the table."""
    check_model(model)
    family = family_of(model)
    sites = _sites_from_table(model, family) if family else _sites_from_feature_info(model)
    ineffective = None
    if family is not None and family.reads_class_token_only is not None and family.reads_class_token_only(model):
        ineffective = sites.pop()
    return KnownSites(family, {site.name: site for site in sites}, ineffective)


def moex_sites(model: nn.Module) -> dict[str, Site]:
    """Return the named sites of a model in forward order.

    `stem` is the input of the first stage (a ResNet: after the max-pool; a ViT: after the patch embedding), `stage1` …
    are the outputs of the stages (a ViT: of the blocks). The last stage is omitted if the logits depend only on its
    class token. Any other module can be named by its dotted path in `insert_moex`.

    Args:
        model: A timm model, with or without MoEx.

    Returns:
        Site by name; empty if the model's class is unknown and has no `feature_info`.

    Example:
        >>> import timm, timm_moex
        >>> sites = timm_moex.moex_sites(timm.create_model("resnet18"))
        >>> list(sites), sites["stem"].module, sites["stem"].hook_on, sites["stem"].layout
        (['stem', 'stage1', 'stage2', 'stage3', 'stage4'], 'layer1', 'input', 'NCHW')
    """
    return known_sites(model).by_name


def _feature_modules(model: nn.Module) -> dict[str, int]:
    """Return channels by module path from timm's `feature_info`, without entries that match no module."""
    info = getattr(model, "feature_info", None) or []
    known = {name for name, _ in model.named_modules() if name}
    entries = getattr(info, "info", info)
    return {entry["module"]: entry["num_chs"] for entry in entries if entry.get("module") in known}


def _stage_modules(model: nn.Module, stages: str | tuple[str, ...] | FeatureInfo) -> list[str]:
    if isinstance(stages, FeatureInfo):
        return list(_feature_modules(model))[stages.start :]
    if isinstance(stages, tuple):
        return list(stages)
    parent, _, pattern = stages.rpartition(".")
    matcher = re.compile(re.escape(pattern).replace(r"\#", "([0-9]+)"))
    matches = filter(None, (matcher.fullmatch(name) for name, _ in model.get_submodule(parent).named_children()))
    return [f"{parent}.{match[0]}".lstrip(".") for match in sorted(matches, key=lambda match: int(match[1]))]


def _sites_from_table(model: nn.Module, family: Family) -> list[Site]:
    stem = family.stem
    if isinstance(stem, FeatureInfo):
        stem = _stage_modules(model, stem)[0]
    hooks = [stem if isinstance(stem, Hook) else Hook(stem), *map(Hook, _stage_modules(model, family.stages))]
    return [_site(model, family, number, hook) for number, hook in enumerate(hooks)]


def _site(model: nn.Module, family: Family, number: int, hook: Hook) -> Site:
    def value(setting: Any) -> Any:
        return setting(model, number) if callable(setting) else setting

    return Site(
        name=f"stage{number}" if number else "stem",
        module=hook.module,
        hook_on=hook.hook_on,
        layout=value(family.layout if number else family.stem_layout or family.layout),
        prefix_tokens=value(family.num_prefix_tokens),
        norm=value(family.norm),
        tuple_entries=family.tuple_entries,
    )


def _sites_from_feature_info(model: nn.Module) -> list[Site]:
    """Infer the sites of a class that is not in the table, e.g. from a later timm; the channels are checked in use."""
    if isinstance(getattr(model, "feature_info", None), ExtractorInfo):
        return []  # an extractor lists the layers it returns, not the stages of its architecture
    layout = getattr(model, "output_fmt", "NLC" if hasattr(model, "num_prefix_tokens") else "NCHW")
    layout = getattr(layout, "value", layout)
    if layout not in CHANNEL_DIM:
        return []
    prefix_tokens = getattr(model, "num_prefix_tokens", 0) if layout == "NLC" else 0
    return [
        Site(f"stage{number}", path, "output", layout, prefix_tokens, channels=channels)
        for number, (path, channels) in enumerate(_feature_modules(model).items(), start=1)
    ]
