"""Table of sites: the insertion points of each timm model class, with their layouts and defaults.

The entries are taken from timm's source. `tests/insertion/test_sites.py` and the sweep over all architectures
(`tests/zoo`, results in `benchmarks/results/zoo.csv`) verify them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["FAMILIES", "Family", "FeatureInfo", "Hook", "input_of"]

OfStage = Callable[[Any, int], Any]  # a function of the model and the number of the stage, 0 for the stem


@dataclass(frozen=True)
class Hook:
    """A module, and whether its input or its output is exchanged."""

    module: str
    hook_on: str = "output"


@dataclass(frozen=True)
class FeatureInfo:
    """The modules listed in the model's `feature_info`, starting at entry `start`."""

    start: int = 0


def input_of(module: str) -> Hook:
    """Return a hook on the input of the module at a dotted path."""
    return Hook(module, "input")


@dataclass(frozen=True)
class Family:
    """Sites and defaults of one model class. Several settings may also be functions, see `OfStage`.

    Args:
        stem: Module whose output is the `stem` site, `input_of(module)`, or `FeatureInfo()` for its first entry.
        stages: Modules whose outputs are `stage1`, `stage2`, …: a path in which `#` is the block or stage number,
            several paths, or `FeatureInfo()`.
        layout: Layout of the stage outputs.
        stem_layout: Layout of the stem if it differs.
        num_prefix_tokens: Number of class and register tokens in front of the patch tokens. They are not exchanged, and
            the moments are computed over the patch tokens only.
        tuple_entries: The entries to exchange if a site is a tuple or list.
        norm: Default norm. Use `pono` if a convolution follows. Use `in` if a LayerNorm over channels follows, because
            it would remove each position's mean and std.
        layer: Default site.
        aliases: Other accepted names of sites.
        reads_class_token_only: Function of the model: True if only the class token of the last stage reaches the
            logits. The patch tokens of that stage are then not a site.
        interior_layout: Layout of all tensors between the stem and the pooling if they share one. Any module's path can
            then be given without `channel_dim`.
    """

    stem: str | Hook | FeatureInfo
    stages: str | tuple[str, ...] | FeatureInfo
    layout: str | OfStage = "NCHW"
    stem_layout: str | OfStage | None = None
    num_prefix_tokens: int | OfStage = 0
    tuple_entries: slice | None = None
    norm: str | OfStage = "pono"
    layer: str = "stem"
    aliases: tuple[tuple[str, str], ...] = ()
    reads_class_token_only: Callable[[Any], bool] | None = None
    interior_layout: str | None = None


def _conv(stem: str | Hook | FeatureInfo, stages: str | tuple[str, ...] | FeatureInfo, **settings: Any) -> Family:
    return Family(stem, stages, interior_layout="NCHW", **settings)


def _tokens(stem: str | Hook, stages: str | FeatureInfo, **settings: Any) -> Family:
    return Family(stem, stages, layout="NLC", norm="in", **settings)


def _embed_layout(model: Any, number: int) -> str:
    embed = model.patch_embed
    return "NLC" if embed.flatten else embed.output_fmt.value


def _prefix_tokens(model: Any, number: int) -> int:
    return model.num_prefix_tokens


def _prefix_tokens_of_stages(model: Any, number: int) -> int:
    return model.num_prefix_tokens if number else 0


def _one_of_stages(model: Any, number: int) -> int:
    return 1 if number else 0


def _convit_prefix(model: Any, number: int) -> int:
    return 1 if number > model.local_up_to_layer and model.cls_token is not None else 0


def _maxxvit_norm(model: Any, number: int) -> str:
    convnext = any(type(block).__name__ == "ConvNeXtBlock" for block in model.stages[0].blocks)
    return "in" if convnext else _in_at_last(model, number)


def _in_at_last(model: Any, number: int) -> str:
    return "in" if number == len(model.stages) else "pono"


def _pools_class_token(model: Any) -> bool:
    return model.global_pool == "token"


def _vit(**changes: Any) -> Family:
    vit = _tokens(
        "patch_embed",
        "blocks.#",
        stem_layout=_embed_layout,
        num_prefix_tokens=_prefix_tokens_of_stages,
        reads_class_token_only=_pools_class_token,
    )
    return replace(vit, **changes)


_RESNET_ALIASES = (("C2", "stage1"), ("C3", "stage2"), ("C4", "stage3"), ("C5", "stage4"))
_STAGES = Family(input_of("stages.0"), "stages.#")
_STAGES_LN = Family(input_of("stages.0"), "stages.#", norm="in")
_SWIN = Family("patch_embed", "layers.#", layout="NHWC", norm="in")
_ENCODER = _tokens("patch_embed", "blocks.#", stem_layout="NHWC")
_GEMMA = _tokens("patch_embed", "blocks.#", tuple_entries=slice(1))
_IN_CLASSIFIER: dict[str, Any] = dict(stem="encoder.patch_embed", stages="encoder.blocks.#")


def _alike(family: Family, classes: str) -> dict[str, Family]:
    return dict.fromkeys(classes.split(), family)


# Keyed by the name of the model class in timm or timm_moex, looked up along its bases.
FAMILIES: dict[str, Family] = {
    # Residual and other plain convolutional networks
    **_alike(
        _conv(input_of("stages.0"), "stages.#"),
        "CspNet CspNext FasterNet HighPerfGpuNet LCNetV2 NormFreeNet StarNet VovNet",
    ),
    **_alike(
        _conv(input_of("blocks.0"), "blocks.#"),
        "ConvMixer EfficientNet GhostNet MobileNetV3 RepGhostNet XceptionAligned",
    ),
    "ResNet": _conv(input_of("layer1"), "layer#", aliases=_RESNET_ALIASES),
    "ResNetV2": _conv(input_of("stages.0"), "stages.#", aliases=_RESNET_ALIASES),
    "SENet": _conv(input_of("layer1"), ("layer1", "layer2", "layer3", "layer4"), aliases=_RESNET_ALIASES),
    "TResNet": _conv(input_of("body.layer1"), "body.layer#", aliases=_RESNET_ALIASES),
    "CifarNet": _conv(input_of("layer1"), "layer#"),
    "DenseNet": _conv(input_of("features.denseblock1"), "features.denseblock#"),
    "DLA": _conv(input_of("level2"), ("level2", "level3", "level4", "level5")),
    "DPN": _conv(input_of("features.conv2_1"), FeatureInfo(start=1)),
    "HighResolutionNet": _conv(input_of("layer1"), ("layer1", "stage2", "stage3", "stage4"), tuple_entries=slice(None)),
    "InceptionResnetV2": _conv(input_of("mixed_5b"), ("repeat", "repeat_1", "conv2d_7b")),
    "InceptionV3": _conv(input_of("Mixed_5b"), ("Mixed_5d", "Mixed_6e", "Mixed_7c")),
    "InceptionV4": _conv(input_of("features.6"), ("features.9", "features.17", "features.21")),
    "NASNetALarge": _conv("conv0", ("cell_stem_1", "cell_5", "cell_11", "cell_17")),
    "PNASNet5Large": _conv("conv_0", ("cell_stem_1", "cell_3", "cell_7", "cell_11")),
    "RegNet": _conv(input_of("s1"), "s#"),
    "RexNet": _conv(input_of("features.0"), FeatureInfo()),
    "SelecSls": _conv("stem", FeatureInfo(start=1), tuple_entries=slice(1)),
    "VGG": _conv(FeatureInfo(), FeatureInfo(start=1)),
    "Xception": _conv(input_of("block1"), ("block1", "block2", "block3", "block12", "act4")),
    # Convolutions with attention or token mixing, NCHW between the stages
    **_alike(
        _STAGES,
        "ByobNet CPUBone EfficientFormerV2 EfficientVit EfficientVitLarge FastVit IFormer LowFormer MetaNeXt NextViT "
        "RepVit SwiftFormer",
    ),
    **_alike(_STAGES_LN, "CSATv2 ConvNeXt DaVit EdgeNeXt GlobalContextVit MetaFormer"),
    **_alike(Family("patch_embed", "stages.#"), "EfficientVitMsra SHViT TinyVit"),
    **_alike(Family(input_of("blocks.0"), "blocks.#"), "MobileNetV5 MobileNetV5Encoder"),
    "EfficientViM": Family("patch_embed", "stages.#", tuple_entries=slice(1, 2), norm=_in_at_last),
    "FocalNet": Family("stem", "layers.#", norm="in"),
    "MaxxVit": replace(_STAGES, norm=_maxxvit_norm),
    "Nest": Family("patch_embed", "levels.#", norm="in"),
    "PyramidVisionTransformerV2": Family("patch_embed", "stages.#", stem_layout="NHWC", norm="in"),
    "RDNet": Family(input_of("dense_stages.0"), FeatureInfo(), norm="in"),
    "SwinTransformerV2Cr": Family("patch_embed", "stages.#", norm="in"),
    "Visformer": Family("patch_embed1", "stage#"),
    # Channels last
    "HieraDet": Family("patch_embed", FeatureInfo(), layout="NHWC", norm="in"),
    "MambaOut": Family("stem", "stages.#", layout="NHWC", norm="in"),
    "Sequencer2d": Family("stem", "stages.#", layout="NHWC", norm="in"),
    "SwinTransformer": _SWIN,
    "SwinTransformerV2": _SWIN,
    "VOLO": Family("patch_embed", FeatureInfo(), layout="NHWC", stem_layout="NCHW", norm="in"),
    "VisionTransformerSAM": Family("patch_embed", "blocks.#", layout="NHWC", norm="in"),
    # Tokens
    **_alike(_vit(), "Beit Eva VisionTransformer VisionTransformerRelPos"),
    "Cait": _vit(num_prefix_tokens=0, reads_class_token_only=None),
    "CoaT": _tokens(
        "patch_embed1",
        "serial_blocks#",
        num_prefix_tokens=_one_of_stages,
        reads_class_token_only=lambda model: model.parallel_blocks is None and _pools_class_token(model),
    ),
    "ConVit": _vit(num_prefix_tokens=_convit_prefix),
    "CrossVit": _vit(
        stem=input_of("blocks.0"),
        stem_layout=None,
        num_prefix_tokens=1,
        tuple_entries=slice(None),
    ),
    "DeepseekVitClassifier": replace(_ENCODER, **_IN_CLASSIFIER),
    "DeepseekVitEncoder": _ENCODER,
    "EfficientFormer": Family(
        "stem",
        "stages.#",
        layout=lambda model, number: "NLC" if number == len(model.stages) else "NCHW",
        stem_layout="NCHW",
        norm=_in_at_last,
    ),
    "Gemma4VitClassifier": replace(_GEMMA, **_IN_CLASSIFIER),
    "Gemma4VitEncoder": _GEMMA,
    "Hiera": _tokens("patch_embed", FeatureInfo()),
    "Levit": Family(
        "stem", "stages.#", layout=lambda model, number: "NCHW" if model.use_conv else "NLC", stem_layout="NCHW"
    ),
    "MlpMixer": _tokens("stem", "blocks.#"),
    "MultiScaleVit": _vit(stages="stages.#", stem_layout=None, tuple_entries=slice(1)),
    "NaFlexVit": _vit(stem="embeds", stem_layout=None, num_prefix_tokens=_prefix_tokens, tuple_entries=slice(1)),
    "PoolingVisionTransformer": Family(
        "patch_embed", "transformers.#", tuple_entries=slice(1), norm="in", reads_class_token_only=_pools_class_token
    ),
    "Qwen3VitClassifier": replace(_ENCODER, **_IN_CLASSIFIER),
    "Qwen3VitEncoder": _ENCODER,
    "TNT": _vit(stem="norm2_proj", stem_layout=None, num_prefix_tokens=_one_of_stages, tuple_entries=slice(1, 2)),
    "Twins": _tokens("patch_embeds.0", "blocks.#", tuple_entries=slice(1)),
    "Xcit": _tokens("patch_embed", "blocks.#", tuple_entries=slice(1)),
}
