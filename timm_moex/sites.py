"""Where an exchange can sit: for each timm model class its sites, their layout, the default site and norm.

The layout of a site is written down here and proved by the zoo sweep; it is never guessed from a shape.
"""

import re
from dataclasses import dataclass

from torch import nn

__all__ = ["Family", "Site", "family_of", "moex_sites"]

CHANNEL_DIM = {"NCHW": 1, "NHWC": -1, "NLC": -1}


@dataclass(frozen=True)
class Site:
    """One place in a model where features can be exchanged.

    Args:
        name: `stem`, `stage1` … or the dotted path itself.
        module: Dotted path of the module whose input or output is exchanged.
        at: "input" or "output".
        layout: `NCHW`, `NHWC` or `NLC`.
        prefix_tokens: Class and register tokens in front of the patch tokens of an NLC site; they are left alone.
    """

    name: str
    module: str
    at: str
    layout: str
    prefix_tokens: int = 0

    @property
    def channel_dim(self) -> int:
        return CHANNEL_DIM[self.layout]


@dataclass(frozen=True)
class Family:
    """What is known about one model class.

    Args:
        stem: Module whose output is the `stem` site; with a leading `<` the input of that module.
        stages: Modules whose outputs are `stage1` …; `#` stands for a running number.
        layout: Layout of the stage outputs.
        stem_layout: Layout of the stem where it differs.
        norm: Default norm. PONO where a convolution follows; a LayerNorm over the channels takes each position's mean
            and std away again, so there `in`.
        layer: Default site.
        aliases: Other accepted names of sites.
    """

    stem: str
    stages: str | tuple[str, ...]
    layout: str = "NCHW"
    stem_layout: str | None = None
    norm: str = "pono"
    layer: str = "stem"
    aliases: tuple[tuple[str, str], ...] = ()


_C2_TO_C5 = (("C2", "stage1"), ("C3", "stage2"), ("C4", "stage3"), ("C5", "stage4"))

# Keyed by the name of the model class, looked up along its bases.
FAMILIES: dict[str, Family] = {
    "ResNet": Family("<layer1", "layer#", aliases=_C2_TO_C5),
    "CifarResNet": Family("<layer1", "layer#"),
    "ResNetV2": Family("<stages.0", "stages.#", aliases=_C2_TO_C5),
    "DenseNet": Family("<features.denseblock1", "features.denseblock#"),
    "RegNet": Family("<s1", "s#"),
    "EfficientNet": Family("<blocks.0", "blocks.#"),
    "MobileNetV3": Family("<blocks.0", "blocks.#"),
    "ConvNeXt": Family("<stages.0", "stages.#", norm="in"),
    "VisionTransformer": Family("patch_embed", "blocks.#", layout="NLC", norm="in"),
}


def family_of(model: nn.Module) -> Family | None:
    """The table's entry for a model, by its class or the nearest base class in the table; None if there is none."""
    for cls in type(model).__mro__:
        if cls.__name__ in FAMILIES:
            return FAMILIES[cls.__name__]
    return None


def _expand(model: nn.Module, stages: str | tuple[str, ...]) -> list[str]:
    if not isinstance(stages, str):
        return list(stages)
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
    are the outputs of the stages. Any other module can be named by its dotted path in `insert_moex`.

    Args:
        model: A timm model, with or without MoEx.

    Returns:
        Site by name; empty if the model's class is unknown and has no `feature_info`.
    """
    family = family_of(model)
    if family is None:
        return _sites_from_feature_info(model)
    at = "input" if family.stem.startswith("<") else "output"
    sites = {"stem": Site("stem", family.stem.removeprefix("<"), at, family.stem_layout or family.layout)}
    prefix_tokens = getattr(model, "num_prefix_tokens", 0) if family.layout == "NLC" else 0
    for number, path in enumerate(_expand(model, family.stages), start=1):
        sites[f"stage{number}"] = Site(f"stage{number}", path, "output", family.layout, prefix_tokens)
    return sites


def _sites_from_feature_info(model: nn.Module) -> dict[str, Site]:
    """Best known sites of a class that is not in the table, e.g. of a later timm."""
    layout = getattr(model, "output_fmt", "NLC" if hasattr(model, "num_prefix_tokens") else "NCHW")
    layout = getattr(layout, "value", layout)
    prefix_tokens = getattr(model, "num_prefix_tokens", 0) if layout == "NLC" else 0
    info = getattr(model, "feature_info", None) or []
    paths = dict.fromkeys(entry["module"] for entry in getattr(info, "info", info) if entry.get("module"))
    known = dict(model.named_modules())
    return {
        f"stage{number}": Site(f"stage{number}", path, "output", layout, prefix_tokens)
        for number, path in enumerate((p for p in paths if p in known), start=1)
    }
