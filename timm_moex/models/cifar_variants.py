"""CIFAR nets of the paper's tables: a builder for each family, and the registered variants."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import DefaultCfg, build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, downsample_conv
from torch import nn

from .cifar_blocks import DenseLayer, PreActBlock, PyramidBlock, ZeroPadShortcut, transition
from .cifar_net import CifarNet, Stages, Trunk
from .registry import add_released_tags, resolve_verified_cfg

__all__ = []  # register_model adds the entrypoints


def _num_blocks(depth: int, per_block: int, rest: int) -> int:
    """Return the blocks per stage of a net with depth n * per_block + rest."""
    num_blocks, remainder = divmod(depth - rest, per_block)
    if remainder or num_blocks < 1:
        examples = ", ".join(str(per_block * n + rest) for n in (1, 2, 3))
        raise ValueError(f"depth must be {per_block}n + {rest} ({examples}, …), got {depth}.")
    return num_blocks


def _stages(
    block: Callable[..., nn.Module], widths: Sequence[Sequence[int]], in_chs: int, drop_path_rate: float
) -> Stages:
    """Build stages of residual blocks, each from `block(in_chs, out_chs, stride, drop_path)`.

    `widths` lists the output channels of the blocks of each stage. All stages but the first start with stride 2. The
    probability of dropping a residual branch grows linearly from 0 to `drop_path_rate`.
    """
    rates: Any = iter(calculate_drop_path_rates(drop_path_rate, sum(map(len, widths))))
    stages: Stages = []
    for stage in widths:
        blocks: list[nn.Module] = []
        for width in stage:
            stride = 2 if stages and not blocks else 1
            blocks.append(block(in_chs, width, stride, next(rates)))
            in_chs = width
        stages.append((blocks, in_chs))
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
    widths = [[width] * _num_blocks(depth, 6, 2) for width in (16, 32, 64)]
    return Trunk(16, _stages(partial(basic_block, **layers), widths, 16, drop_path_rate))


def resnext(
    depth: int = 29, cardinality: int = 8, base_width: int = 64, drop_path_rate: float = 0.0, **layers: Any
) -> Trunk:
    """Xie et al., "Aggregated Residual Transformations", CVPR 2017, section 5.3, arXiv 1611.05431.

    9n + 2 layers: 3x3 stem of 64, three stages of n bottlenecks with 256, 512 and 1024 channels. `base_width` is the
    channels per group in the first stage and doubles from stage to stage; `cardinality` is the number of groups.
    """
    block = partial(_bottleneck, cardinality=cardinality, base_width=base_width, **layers)
    widths = [[width] * _num_blocks(depth, 9, 2) for width in (256, 512, 1024)]
    return Trunk(64, _stages(block, widths, 64, drop_path_rate))


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
    stages = _stages(block, [[width] * depth for depth, width in zip(depths, widths)], stem_chs, drop_path_rate)
    stages[0][0][0].preact_shortcut = True  # type: ignore[assignment]
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
    stages: Stages = []
    for _ in range(3):
        blocks: list[nn.Module] = []
        if stages:
            blocks.append(transition(chs, chs // 2, proj_drop_rate, **layers))
            chs //= 2
        for _ in range(num_layers):
            blocks.append(DenseLayer(chs, growth_rate, bn_size, proj_drop_rate, **layers))
            chs += growth_rate
        stages.append((blocks, chs))
    return Trunk(stem_chs, stages, "conv1", final_norm=True)


def pyramidnet(
    depth: int = 200, alpha: float = 240, bottleneck: bool = True, drop_path_rate: float = 0.0, **layers: Any
) -> Trunk:
    """Han et al., "Deep Pyramidal Residual Networks", CVPR 2017, arXiv 1610.02915.

    9n + 2 layers with bottlenecks, 6n + 2 without, n blocks in each of three stages. The channels grow by the same
    amount in every block, from 16 to 16 + `alpha` (4 times that with bottlenecks). The stem is a 3x3 convolution and a
    norm, with no activation before the first block.
    """
    num_blocks, expansion = (_num_blocks(depth, 9, 2), 4) if bottleneck else (_num_blocks(depth, 6, 2), 1)
    widths = [expansion * round(16 + alpha * i / (3 * num_blocks)) for i in range(1, 3 * num_blocks + 1)]
    stages = [widths[first : first + num_blocks] for first in range(0, 3 * num_blocks, num_blocks)]
    block = partial(PyramidBlock, bottleneck=bottleneck, **layers)
    return Trunk(16, _stages(block, stages, 16, drop_path_rate), "bn1", final_norm=True)


default_cfgs: dict[str, DefaultCfg] = {}  # where timm's register_model looks for the pretrained tags


def _register(
    name: str, make_trunk: Callable[..., Trunk], paper: str, doc: str, num_stages: int = 3, **model_args: Any
) -> None:
    """Register a net whose only weights are the package's own; mean and std are CIFAR-10's."""
    cfg = dict(num_classes=10, input_size=(3, 32, 32), fixed_input_size=False, paper_ids=f"arXiv:{paper}")
    cfg.update(crop_pct=1.0, interpolation="bilinear", mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
    cfg.update(first_conv="conv1", classifier="fc", license="apache-2.0", pool_size=(64 >> num_stages,) * 2)
    default_cfgs.update(generate_default_cfgs({name: cfg}))
    add_released_tags(default_cfgs)

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> Any:
        # features_only returns the stem and every stage by default
        kwargs["feature_cfg"] = dict(out_indices=tuple(range(num_stages + 1))) | (kwargs.get("feature_cfg") or {})
        if pretrained:
            cfg = resolve_verified_cfg(name, kwargs.get("pretrained_cfg"), kwargs.get("cache_dir"))
            kwargs["pretrained_cfg"] = cfg
        return build_model_with_cfg(partial(CifarNet, make_trunk), name, pretrained, **model_args | kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = doc
    setattr(sys.modules[__name__], name, register_model(entrypoint))


_RESNET, _PREACT, _WIDE, _RESNEXT = "1512.03385", "1603.05027", "1605.07146", "1611.05431"
_DENSE, _PYRAMID = "1608.06993", "1610.02915"

_RESNET8 = "ResNet-8 for CIFAR, one block per stage, 0.08M parameters: for studies on a CPU."
_PREACT18 = "PreAct ResNet-18 for CIFAR, ImageNet's four stages of 64 to 512 channels on a 3x3 stem, 11.2M parameters."
_DENSE100 = "DenseNet-BC, depth 100, growth rate 12, 0.8M parameters."
_DENSE190 = "DenseNet-BC, depth 190, growth rate 40, 25.6M parameters."
_PYRAMID110 = "PyramidNet-110, alpha 270, basic blocks, 28.5M parameters."
_PYRAMID200 = "PyramidNet-200, alpha 240, bottleneck blocks, 26.8M parameters with 100 classes."

_register("resnet8_cifar", resnet, _RESNET, _RESNET8, depth=8)
_register("resnet20_cifar", resnet, _RESNET, "ResNet-20 for CIFAR, 0.27M parameters.", depth=20)
_register("resnet32_cifar", resnet, _RESNET, "ResNet-32 for CIFAR, 0.46M parameters.", depth=32)
_register("resnet44_cifar", resnet, _RESNET, "ResNet-44 for CIFAR, 0.66M parameters.", depth=44)
_register("resnet56_cifar", resnet, _RESNET, "ResNet-56 for CIFAR, 0.85M parameters.", depth=56)
_register("resnet110_cifar", resnet, _RESNET, "ResNet-110 for CIFAR, 1.7M parameters.", depth=110)
_register("resnext29_8x64d_cifar", resnext, _RESNEXT, "ResNeXt-29, 8x64d, for CIFAR, 34.4M parameters.")
_register("preact_resnet18_cifar", preact_resnet, _PREACT, _PREACT18, num_stages=4)
_register("wrn16_4_cifar", preact_resnet, _WIDE, "WRN-16-4, 2.7M parameters.", **_wide(16, 4))
_register("wrn28_10_cifar", preact_resnet, _WIDE, "WRN-28-10, 36.5M parameters.", **_wide(28, 10))
_register("wrn40_4_cifar", preact_resnet, _WIDE, "WRN-40-4, 8.9M parameters.", **_wide(40, 4))
_register("densenet_bc100_12_cifar", densenet_bc, _DENSE, _DENSE100, depth=100, growth_rate=12)
_register("densenet_bc190_40_cifar", densenet_bc, _DENSE, _DENSE190, depth=190, growth_rate=40)
_register("pyramidnet110_a270_cifar", pyramidnet, _PYRAMID, _PYRAMID110, depth=110, alpha=270, bottleneck=False)
_register("pyramidnet200_a240_cifar", pyramidnet, _PYRAMID, _PYRAMID200, depth=200, alpha=240, bottleneck=True)
