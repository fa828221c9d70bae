"""PyramidNet for CIFAR: Han et al., "Deep Pyramidal Residual Networks", CVPR 2017, arXiv 1610.02915."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers import DropPath, LayerType, calculate_drop_path_rates, get_act_layer, get_norm_layer
from timm.models import register_model
from torch import nn

from .cifar_net import CifarNet, Stage, build_cifar_net, cifar_cfg
from .cifar_resnet import ZeroPadShortcut
from .registry import generate_default_cfgs

__all__ = ["CifarPyramidNet"]


class PyramidBlock(nn.Module):
    """Residual branch that begins and ends with a norm and activates only inside; average-pooled, zero-padded shortcut.

    Args:
        in_chs: Channels in.
        mid_chs: Channels of the convolutions inside; the block puts out as many, or 4 times as many if `bottleneck`.
        stride: Stride of the (first) 3x3 convolution and of the pooling.
        drop_path: Probability of dropping the residual branch.
        bottleneck: 1x1, 3x3 and 1x1 convolution instead of two 3x3.
        act_layer: Activation class.
        norm_layer: Norm class.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        in_chs: int,
        mid_chs: int,
        stride: int = 1,
        drop_path: float = 0.0,
        bottleneck: bool = True,
        act_layer: type[nn.Module] = nn.ReLU,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        conv: Callable[..., nn.Module] = partial(nn.Conv2d, bias=False, **dd)
        if bottleneck:
            out_chs = 4 * mid_chs
            convs = [
                conv(in_chs, mid_chs, 1),
                conv(mid_chs, mid_chs, 3, stride=stride, padding=1),
                conv(mid_chs, out_chs, 1),
            ]
        else:
            out_chs = mid_chs
            convs = [conv(in_chs, mid_chs, 3, stride=stride, padding=1), conv(mid_chs, out_chs, 3, padding=1)]
        branch = [norm_layer(in_chs, **dd), convs[0]]
        for c in convs[1:]:
            branch += [norm_layer(mid_chs, **dd), act_layer(inplace=True), c]
        self.branch = nn.Sequential(*branch, norm_layer(out_chs, **dd))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        # ceil_mode: the padded 3x3 convolution of stride 2 rounds odd sizes up
        self.pool = nn.AvgPool2d(2, 2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.pad = ZeroPadShortcut(out_chs - in_chs, stride=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop_path(self.branch(x)) + self.pad(self.pool(x))


class CifarPyramidNet(CifarNet):
    """Channels grow by the same amount in every block, by `alpha` in all: from 16 to 16 + alpha (4 times that with
    bottlenecks). The stem is a 3x3 convolution and a norm, with no activation before the first block.

    Args:
        depth: Weighted layers, 9n + 2 with bottlenecks, 6n + 2 without, n blocks in each of three stages.
        alpha: Widening: channels gained over the whole net.
        bottleneck: Blocks of 1x1, 3x3 and 1x1 convolutions instead of two 3x3.
        drop_path_rate: Probability of dropping the last block's residual branch; grows linearly from 0 over the depth.
        act_layer: Activation, by timm's name or as a class.
        norm_layer: Norm, by timm's name or as a class.
        device: Device of the parameters.
        dtype: Type of the parameters.
        **kwargs: `num_classes`, `in_chans`, `global_pool`, `drop_rate` of `CifarNet`.

    Raises:
        ValueError: A depth that does not fit the blocks.
    """

    def __init__(
        self,
        depth: int = 200,
        alpha: float = 240,
        bottleneck: bool = True,
        drop_path_rate: float = 0.0,
        act_layer: LayerType = nn.ReLU,
        norm_layer: LayerType = nn.BatchNorm2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        per_stage = 9 if bottleneck else 6
        num_blocks, rest = divmod(depth - 2, per_stage)
        if rest or num_blocks < 1:
            raise ValueError(f"depth must be {per_stage}n + 2 with bottleneck={bottleneck} and n >= 1, got {depth}.")
        layers: dict[str, Any] = dict(act_layer=get_act_layer(act_layer), norm_layer=get_norm_layer(norm_layer))
        layers.update(device=device, dtype=dtype)
        block: Callable[..., nn.Module] = partial(PyramidBlock, bottleneck=bottleneck, **layers)
        rates = calculate_drop_path_rates(drop_path_rate, 3 * num_blocks)
        in_chs = 16
        blocks: list[nn.Module] = []
        stages: list[Stage] = []
        for i, rate in enumerate(rates):
            mid_chs = round(16 + alpha * (i + 1) / len(rates))
            stride = 2 if i in (num_blocks, 2 * num_blocks) else 1
            blocks.append(block(in_chs, mid_chs, stride, rate))
            in_chs = 4 * mid_chs if bottleneck else mid_chs
            if len(blocks) == num_blocks:
                stages.append(Stage(blocks, in_chs, 2 if stages else 1))
                blocks = []
        super().__init__(16, stages, stem_end="bn1", final_norm=True, **layers, **kwargs)


default_cfgs = generate_default_cfgs(
    {
        "pyramidnet110_a270_cifar": cifar_cfg(paper_ids="arXiv:1610.02915"),
        "pyramidnet200_a240_cifar": cifar_cfg(paper_ids="arXiv:1610.02915"),
    }
)


@register_model
def pyramidnet110_a270_cifar(pretrained: bool = False, **kwargs: Any) -> CifarPyramidNet:
    """PyramidNet-110, alpha 270, basic blocks, 28.5M parameters."""
    model_args = dict(depth=110, alpha=270, bottleneck=False)
    return build_cifar_net(CifarPyramidNet, "pyramidnet110_a270_cifar", pretrained, **dict(model_args, **kwargs))


@register_model
def pyramidnet200_a240_cifar(pretrained: bool = False, **kwargs: Any) -> CifarPyramidNet:
    """PyramidNet-200, alpha 240, bottleneck blocks, 26.8M parameters with 100 classes."""
    model_args = dict(depth=200, alpha=240, bottleneck=True)
    return build_cifar_net(CifarPyramidNet, "pyramidnet200_a240_cifar", pretrained, **dict(model_args, **kwargs))
