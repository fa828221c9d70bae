"""Where an exchange can sit in a given model: its named sites, each with its module, layout and prefix tokens.

The layout of a site is written down in `families.py` and proved by the zoo sweep; it is never guessed from a shape.
"""

import re
from dataclasses import dataclass

from torch import nn

from .families import FAMILIES, Family

__all__ = ["CHANNEL_DIM", "Family", "Site", "family_of", "moex_sites", "unread_site"]

CHANNEL_DIM = {"NCHW": 1, "NHWC": -1, "NLC": -1, "NC...": 1, "N...C": -1}


@dataclass(frozen=True)
class Site:
    """One place in a model where features can be exchanged.

    Args:
        name: `stem`, `stage1` … or the dotted path itself.
        module: Dotted path of the module whose input or output is exchanged.
        at: "input" or "output".
        layout: `NCHW`, `NHWC` or `NLC`; where only the channel axis is known `NC...` or `N...C`.
        prefix_tokens: Class and register tokens in front of the patch tokens of an NLC site; they are left alone.
        norm: Default norm there; `in` holds up before a LayerNorm over the channels, too.
        items: The entries that are exchanged where the module takes or returns a tuple or list.
        channels: Number of channels to insist on; None where the table, not `feature_info`, knows the layout.
    """

    name: str
    module: str
    at: str
    layout: str
    prefix_tokens: int = 0
    norm: str = "in"
    items: slice | None = None
    channels: int | None = None

    @property
    def channel_dim(self) -> int:
        return CHANNEL_DIM[self.layout]


def family_of(model: nn.Module) -> Family | None:
    """The table's entry for a model, by its class or the nearest base class, of timm's or ours; None if it has none."""
    for cls in type(model).__mro__:
        if cls.__name__ in FAMILIES and cls.__module__.partition(".")[0] in ("timm", "timm_moex"):
            return FAMILIES[cls.__name__]
    return None


def _feature_modules(model: nn.Module) -> dict[str, int]:
    """Channels by module path, as timm's `feature_info` has them, without entries that name no module."""
    info = getattr(model, "feature_info", None) or []
    known = {name for name, _ in model.named_modules() if name}
    entries = getattr(info, "info", info)
    return {entry["module"]: entry["num_chs"] for entry in entries if entry.get("module") in known}


def _expand(model: nn.Module, stages: str | tuple[str, ...]) -> list[str]:
    if not isinstance(stages, str):
        return list(stages)
    if stages.startswith("feature_info"):
        return list(_feature_modules(model))[int(stages.partition(":")[2] or 0) :]
    parent, _, pattern = stages.rpartition(".")
    matcher = re.compile(re.escape(pattern).replace(r"\#", "([0-9]+)"))
    found = []
    for name, _ in model.get_submodule(parent).named_children():
        if match := matcher.fullmatch(name):
            found.append((int(match[1]), f"{parent}.{name}" if parent else name))
    return [path for _, path in sorted(found)]


def moex_sites(model: nn.Module) -> dict[str, Site]:
    """The named sites of a model, in the order the data meets them.

    `stem` is the input of the first stage (a ResNet: after the max-pool; a ViT: after the patch embedding), `stage1` …
    are the outputs of the stages (a ViT: of the blocks). The last stage is left out where the logits come from its
    class token alone. Any other module can be named by its dotted path in `insert_moex`.

    Args:
        model: A timm model, with or without MoEx.

    Returns:
        Site by name; empty if the model's class is unknown and has no `feature_info`.
    """
    family = family_of(model)
    sites = _sites_from_table(model, family) if family else _sites_from_feature_info(model)
    unread = unread_site(model)
    return {site.name: site for site in sites if site != unread}


def unread_site(model: nn.Module) -> Site | None:
    """The last stage, where the logits come from its class token alone: an exchange there would change nothing."""
    family = family_of(model)
    if family is None or family.token_readout is None or not family.token_readout(model):
        return None
    return _sites_from_table(model, family)[-1]


def _sites_from_table(model: nn.Module, family: Family) -> list[Site]:
    stem = _expand(model, "feature_info")[0] if family.stem == "feature_info" else family.stem
    return [_site(model, family, number, path) for number, path in enumerate([stem, *_expand(model, family.stages)])]


def _site(model: nn.Module, family: Family, number: int, path: str) -> Site:
    if number or family.stem_layout is None:
        layout = family.layout if isinstance(family.layout, str) else family.layout(model, number)
    else:
        layout = family.stem_layout if isinstance(family.stem_layout, str) else family.stem_layout(model)
    return Site(
        name=f"stage{number}" if number else "stem",
        module=path.removeprefix("<"),
        at="input" if path.startswith("<") else "output",
        layout=layout,
        prefix_tokens=family.prefix(model, number) if family.prefix else 0,
        norm=family.norm if isinstance(family.norm, str) else family.norm(model, number),
        items=family.items,
    )


def _sites_from_feature_info(model: nn.Module) -> list[Site]:
    """Best known sites of a class that is not in the table, e.g. of a later timm; the channels are checked in use."""
    layout = getattr(model, "output_fmt", "NLC" if hasattr(model, "num_prefix_tokens") else "NCHW")
    layout = getattr(layout, "value", layout)
    if layout not in CHANNEL_DIM:
        return []
    prefix_tokens = getattr(model, "num_prefix_tokens", 0) if layout == "NLC" else 0
    return [
        Site(f"stage{number}", path, "output", layout, prefix_tokens, channels=channels)
        for number, (path, channels) in enumerate(_feature_modules(model).items(), start=1)
    ]
