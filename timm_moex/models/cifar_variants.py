"""CIFAR nets of the paper's tables: a builder for each family, and the table of registered variants."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import build_model_with_cfg, register_model
from timm.models.resnet import BasicBlock, Bottleneck, downsample_conv
from torch import nn

from .cifar_blocks import DenseLayer, PreActBlock, PyramidBlock, ZeroPadShortcut, transition
from .cifar_net import CifarNet, Stage, Trunk
from .registry import generate_default_cfgs, resolve_verified_cfg

__all__ = []  # register_model adds the entrypoints


def _num_blocks(depth: int, per_block: int, rest: int, hint: str = "") -> int:
    """Return the blocks per stage of a net with depth n * per_block + rest."""
    num_blocks, remainder = divmod(depth - rest, per_block)
    if remainder or num_blocks < 1:
        examples = ", ".join(str(per_block * n + rest) for n in (1, 2, 3))
        raise ValueError(f"depth must be {per_block}n + {rest}{hint} ({examples}, …), got {depth}.")
    return num_blocks


def _stages(
    block: Callable[..., nn.Module], depths: Sequence[int], widths: Sequence[int], in_chs: int, drop_path_rate: float
) -> list[Stage]:
    """Build stages of residual blocks, each from `block(in_chs, out_chs, stride, drop_path)`.

    All but the first stage start with stride 2. The probability of dropping a residual branch grows linearly from 0 to
    `drop_path_rate`.
    """
    rates = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
    stages = []
    for i, (depth, width) in enumerate(zip(depths, widths)):
        stride = 1 if i == 0 else 2
        blocks = [block(in_chs, width, stride, next(rates))]
        blocks += [block(width, width, 1, next(rates)) for _ in range(depth - 1)]
        stages.append(Stage(blocks, width, stride))
        in_chs = width
    return stages


def basic_block(in_chs: int, out_chs: int, stride: int = 1, drop_path: float = 0.0, **layers: Any) -> BasicBlock:
    """timm's basic block with a parameter-free shortcut."""
    same = stride == 1 and in_chs == out_chs
    shortcut = None if same else ZeroPadShortcut(out_chs - in_chs, stride)
    drop = DropPath(drop_path) if drop_path else None
    return BasicBlock(in_chs, out_chs, stride, shortcut, drop_path=drop, **layers)


def _bottleneck(in_chs: int, out_chs: int, stride: int, drop_path: float, **layers: Any) -> Bottleneck:
    """timm's bottleneck, with a projection if the shape changes."""
    shortcut, drop = None, DropPath(drop_path) if drop_path else None
    if stride != 1 or in_chs != out_chs:
        dd = {key: layers[key] for key in ("norm_layer", "device", "dtype")}
        shortcut = downsample_conv(in_chs, out_chs, kernel_size=1, stride=stride, **dd)
    return Bottleneck(in_chs, out_chs // 4, stride, shortcut, drop_path=drop, **layers)


def resnet(depth: int = 20, drop_path_rate: float = 0.0, **layers: Any) -> Trunk:
    """He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2, arXiv 1512.03385.

    6n + 2 layers: 3x3 stem, three stages of n basic blocks with 16, 32 and 64 channels, parameter-free shortcuts.
    """
    depths = (_num_blocks(depth, 6, 2),) * 3
    return Trunk(16, _stages(partial(basic_block, **layers), depths, (16, 32, 64), 16, drop_path_rate))


def resnext(
    depth: int = 29, cardinality: int = 8, base_width: int = 64, drop_path_rate: float = 0.0, **layers: Any
) -> Trunk:
    """Xie et al., "Aggregated Residual Transformations", CVPR 2017, section 5.3, arXiv 1611.05431.

    9n + 2 layers: 3x3 stem of 64, three stages of n bottlenecks with 256, 512 and 1024 channels. `base_width` is the
    channels per group in the first stage and doubles from stage to stage; `cardinality` is the number of groups.
    """
    block = partial(_bottleneck, cardinality=cardinality, base_width=base_width, **layers)
    return Trunk(64, _stages(block, (_num_blocks(depth, 9, 2),) * 3, (256, 512, 1024), 64, drop_path_rate))


def preact_resnet(
    depths: Sequence[int] = (2, 2, 2, 2),
    widths: Sequence[int] = (64, 128, 256, 512),
    stem_chs: int = 64,
    drop_path_rate: float = 0.0,
    proj_drop_rate: float = 0.0,
    **layers: Any,
) -> Trunk:
    """Pre-activation ResNets, narrow and wide: a bare 3x3 convolution as stem, three or four stages.

    He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016, arXiv 1603.05027 (the first block's activation
    is shared by both its branches: appendix), and Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, arXiv
    1605.07146. `proj_drop_rate` is the dropout between the two convolutions of each block (their section 2.4).
    """
    block = partial(PreActBlock, proj_drop=proj_drop_rate, **layers)
    stages = _stages(block, depths, widths, stem_chs, drop_path_rate)
    stages[0].blocks[0].preact_shortcut = True  # type: ignore[assignment]
    return Trunk(stem_chs, stages, "conv1", final_norm=True)


def _wide(depth: int, width: int) -> dict[str, Any]:
    """WRN-depth-width: as in the paper, depth = 6n + 4 counts convolutions, i.e. stem, blocks and three projections."""
    return dict(depths=((depth - 4) // 6,) * 3, widths=(16 * width, 32 * width, 64 * width), stem_chs=16)


def densenet_bc(
    depth: int = 100, growth_rate: int = 12, bn_size: int = 4, proj_drop_rate: float = 0.0, **layers: Any
) -> Trunk:
    """Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, section 3, arXiv 1608.06993.

    6n + 4 layers with k = `growth_rate`: 3x3 stem of 2k channels, then three dense blocks of n bottleneck layers. Each
    layer has `bn_size` * k channels inside and adds k channels. `layer2` and `layer3` begin with the transition that
    halves the channels and the resolution, so that the output of each stage is a whole dense block. `proj_drop_rate` is
    the dropout after every convolution except the stem (0.2 in the paper for data without augmentation).
    """
    num_layers = _num_blocks(depth, 6, 4)
    stem_chs = chs = 2 * growth_rate
    stages = []
    for i in range(3):
        blocks: list[nn.Module] = []
        if i > 0:
            blocks.append(transition(chs, chs // 2, proj_drop_rate, **layers))
            chs //= 2
        for _ in range(num_layers):
            blocks.append(DenseLayer(chs, growth_rate, bn_size, proj_drop_rate, **layers))
            chs += growth_rate
        stages.append(Stage(blocks, chs, 1 if i == 0 else 2))
    return Trunk(stem_chs, stages, "conv1", final_norm=True)


def pyramidnet(
    depth: int = 200, alpha: float = 240, bottleneck: bool = True, drop_path_rate: float = 0.0, **layers: Any
) -> Trunk:
    """Han et al., "Deep Pyramidal Residual Networks", CVPR 2017, arXiv 1610.02915.

    9n + 2 layers with bottlenecks, 6n + 2 without, n blocks in each of three stages. The channels grow by the same
    amount in every block, from 16 to 16 + `alpha` (4 times that with bottlenecks). The stem is a 3x3 convolution and a
    norm, with no activation before the first block.
    """
    num_blocks = _num_blocks(depth, 9 if bottleneck else 6, 2, f" with bottleneck={bottleneck}")
    rates: Any = calculate_drop_path_rates(drop_path_rate, 3 * num_blocks)
    in_chs = 16
    stages: list[Stage] = []
    for first in range(0, 3 * num_blocks, num_blocks):
        blocks: list[nn.Module] = []
        for i in range(first, first + num_blocks):
            mid_chs = round(16 + alpha * (i + 1) / len(rates))
            stride = 2 if i == first > 0 else 1
            blocks.append(PyramidBlock(in_chs, mid_chs, stride, rates[i], bottleneck, **layers))
            in_chs = 4 * mid_chs if bottleneck else mid_chs
        stages.append(Stage(blocks, in_chs, 2 if first else 1))
    return Trunk(16, stages, "bn1", final_norm=True)


class _Variant(NamedTuple):
    doc: str
    make_trunk: Callable[..., Trunk]
    paper_id: str
    model_args: dict[str, Any]
    num_stages: int = 3


_RESNET, _RESNEXT, _PREACT, _WIDE = "arXiv:1512.03385", "arXiv:1611.05431", "arXiv:1603.05027", "arXiv:1605.07146"
_DENSE, _PYRAMID = "arXiv:1608.06993", "arXiv:1610.02915"
_VARIANTS = {
    "resnet8_cifar": _Variant(
        "ResNet-8 for CIFAR, one block per stage, 0.08M parameters: for studies on a CPU.",
        resnet,
        _RESNET,
        dict(depth=8),
    ),
    "resnet20_cifar": _Variant("ResNet-20 for CIFAR, 0.27M parameters.", resnet, _RESNET, dict(depth=20)),
    "resnet32_cifar": _Variant("ResNet-32 for CIFAR, 0.46M parameters.", resnet, _RESNET, dict(depth=32)),
    "resnet44_cifar": _Variant("ResNet-44 for CIFAR, 0.66M parameters.", resnet, _RESNET, dict(depth=44)),
    "resnet56_cifar": _Variant("ResNet-56 for CIFAR, 0.85M parameters.", resnet, _RESNET, dict(depth=56)),
    "resnet110_cifar": _Variant("ResNet-110 for CIFAR, 1.7M parameters.", resnet, _RESNET, dict(depth=110)),
    "resnext29_8x64d_cifar": _Variant("ResNeXt-29, 8x64d, for CIFAR, 34.4M parameters.", resnext, _RESNEXT, {}),
    "preact_resnet18_cifar": _Variant(
        "PreAct ResNet-18 for CIFAR, ImageNet's four stages of 64 to 512 channels on a 3x3 stem, 11.2M parameters.",
        preact_resnet,
        _PREACT,
        {},
        num_stages=4,
    ),
    "wrn16_4_cifar": _Variant("WRN-16-4, 2.7M parameters.", preact_resnet, _WIDE, _wide(16, 4)),
    "wrn28_10_cifar": _Variant("WRN-28-10, 36.5M parameters.", preact_resnet, _WIDE, _wide(28, 10)),
    "wrn40_4_cifar": _Variant("WRN-40-4, 8.9M parameters.", preact_resnet, _WIDE, _wide(40, 4)),
    "densenet_bc100_12_cifar": _Variant(
        "DenseNet-BC, depth 100, growth rate 12, 0.8M parameters.",
        densenet_bc,
        _DENSE,
        dict(depth=100, growth_rate=12),
    ),
    "densenet_bc190_40_cifar": _Variant(
        "DenseNet-BC, depth 190, growth rate 40, 25.6M parameters.",
        densenet_bc,
        _DENSE,
        dict(depth=190, growth_rate=40),
    ),
    "pyramidnet110_a270_cifar": _Variant(
        "PyramidNet-110, alpha 270, basic blocks, 28.5M parameters.",
        pyramidnet,
        _PYRAMID,
        dict(depth=110, alpha=270, bottleneck=False),
    ),
    "pyramidnet200_a240_cifar": _Variant(
        "PyramidNet-200, alpha 240, bottleneck blocks, 26.8M parameters with 100 classes.",
        pyramidnet,
        _PYRAMID,
        dict(depth=200, alpha=240, bottleneck=True),
    ),
}


def _cfg(variant: _Variant) -> dict[str, Any]:
    """Return timm's pretrained cfg for a net without weights; mean and std are CIFAR-10's."""
    cfg = dict(num_classes=10, input_size=(3, 32, 32), fixed_input_size=False, paper_ids=variant.paper_id)
    cfg.update(crop_pct=1.0, interpolation="bilinear", mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
    cfg.update(first_conv="conv1", classifier="fc", license="apache-2.0")
    return dict(cfg, pool_size=(64 >> variant.num_stages,) * 2)


def _make_entrypoint(name: str, variant: _Variant) -> Callable[..., CifarNet]:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> Any:
        # features_only returns the stem and every stage by default
        out_indices = dict(out_indices=tuple(range(variant.num_stages + 1)))
        kwargs = dict(variant.model_args, **kwargs)
        kwargs["feature_cfg"] = dict(out_indices, **kwargs.get("feature_cfg") or {})
        if pretrained:
            cfg = resolve_verified_cfg(name, kwargs.get("pretrained_cfg"), kwargs.get("cache_dir"))
            kwargs["pretrained_cfg"] = cfg
        return build_model_with_cfg(partial(CifarNet, variant.make_trunk), name, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = variant.doc
    return entrypoint


default_cfgs = generate_default_cfgs({name: _cfg(variant) for name, variant in _VARIANTS.items()})
for _name, _variant in _VARIANTS.items():
    setattr(sys.modules[__name__], _name, register_model(_make_entrypoint(_name, _variant)))
