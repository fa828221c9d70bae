"""ResNet for CIFAR: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2, 1512.03385."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerType, get_act_layer, get_norm_layer
from timm.models import register_model
from torch import nn

from .cifar_net import CifarNet, build_cifar_net, cifar_cfg, make_stages
from .registry import generate_default_cfgs

__all__ = ["CifarResNet"]


class ZeroPadShortcut(nn.Module):
    """Option A of the paper: every stride-th pixel of the input, with zeros for the channels it lacks. No parameters.

    Args:
        extra_chs: Channels of zeros to append.
        stride: Step between the pixels kept.
    """

    def __init__(self, extra_chs: int, stride: int) -> None:
        super().__init__()
        self.extra_chs = extra_chs
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.extra_chs))

    def extra_repr(self) -> str:
        return f"extra_chs={self.extra_chs}, stride={self.stride}"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each normalised; the activation follows the sum with the shortcut."""

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        stride: int = 1,
        drop_path: float = 0.0,
        act_layer: type[nn.Module] = nn.ReLU,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride=stride, padding=1, bias=False, **dd)
        self.bn1 = norm_layer(out_chs, **dd)
        self.act1 = act_layer(inplace=True)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, padding=1, bias=False, **dd)
        self.bn2 = norm_layer(out_chs, **dd)
        same = stride == 1 and in_chs == out_chs
        self.downsample: nn.Module = nn.Identity() if same else ZeroPadShortcut(out_chs - in_chs, stride)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.act2 = act_layer(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.downsample(x)
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.act2(self.drop_path(x) + shortcut)


class CifarResNet(CifarNet):
    """The paper's 6n + 2 layer network: 3x3 stem, three stages of n basic blocks with 16, 32 and 64 channels.

    Args:
        depth: Weighted layers, 6n + 2.
        drop_path_rate: Probability of dropping the last block's residual branch; grows linearly from 0 over the depth.
        act_layer: Activation, by timm's name or as a class.
        norm_layer: Norm, by timm's name or as a class.
        device: Device of the parameters.
        dtype: Type of the parameters.
        **kwargs: `num_classes`, `in_chans`, `global_pool`, `drop_rate` of `CifarNet`.

    Raises:
        ValueError: A depth that is not 6n + 2.
    """

    def __init__(
        self,
        depth: int = 20,
        drop_path_rate: float = 0.0,
        act_layer: LayerType = nn.ReLU,
        norm_layer: LayerType = nn.BatchNorm2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        num_blocks, rest = divmod(depth - 2, 6)
        if rest or num_blocks < 1:
            raise ValueError(f"depth must be 6n + 2 with n >= 1 (20, 32, 44, 56, 110, …), got {depth}.")
        layers: dict[str, Any] = dict(act_layer=get_act_layer(act_layer), norm_layer=get_norm_layer(norm_layer))
        layers.update(device=device, dtype=dtype)
        stages = make_stages(partial(BasicBlock, **layers), (num_blocks,) * 3, (16, 32, 64), 16, drop_path_rate)
        super().__init__(16, stages, **layers, **kwargs)


default_cfgs = generate_default_cfgs(
    {f"resnet{depth}_cifar": cifar_cfg(paper_ids="arXiv:1512.03385") for depth in (8, 20, 32, 44, 56, 110)}
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> CifarResNet:
    return build_cifar_net(CifarResNet, variant, pretrained, **kwargs)


@register_model
def resnet8_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-8 for CIFAR, one block per stage, 0.08M parameters: for studies on a CPU."""
    return _create("resnet8_cifar", pretrained, **dict(dict(depth=8), **kwargs))


@register_model
def resnet20_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-20 for CIFAR, 0.27M parameters."""
    return _create("resnet20_cifar", pretrained, **dict(dict(depth=20), **kwargs))


@register_model
def resnet32_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-32 for CIFAR, 0.46M parameters."""
    return _create("resnet32_cifar", pretrained, **dict(dict(depth=32), **kwargs))


@register_model
def resnet44_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-44 for CIFAR, 0.66M parameters."""
    return _create("resnet44_cifar", pretrained, **dict(dict(depth=44), **kwargs))


@register_model
def resnet56_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-56 for CIFAR, 0.85M parameters."""
    return _create("resnet56_cifar", pretrained, **dict(dict(depth=56), **kwargs))


@register_model
def resnet110_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-110 for CIFAR, 1.7M parameters."""
    return _create("resnet110_cifar", pretrained, **dict(dict(depth=110), **kwargs))
