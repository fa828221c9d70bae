"""Blocks of the CIFAR nets that timm does not have; ResNet and ResNeXt use timm's blocks."""

from collections import OrderedDict
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import nn

__all__ = ["DenseLayer", "PreActBlock", "PyramidBlock", "ZeroPadShortcut", "transition"]


class ZeroPadShortcut(nn.Module):
    """ResNet's option A: every stride-th pixel of the input, with zeros for the missing channels. No parameters."""

    def __init__(self, extra_chs: int, stride: int) -> None:
        super().__init__()
        self.extra_chs = extra_chs
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.extra_chs))

    def extra_repr(self) -> str:
        return f"extra_chs={self.extra_chs}, stride={self.stride}"


class PreActBlock(nn.Module):
    """Norm, activation and 3x3 convolution, twice.

    A shortcut that changes shape is a 1x1 convolution of the first activation. `preact_shortcut` says whether the
    shortcut starts at that activation or at the block's input.
    """

    def __init__(
        self, in_chs: int, out_chs: int, stride: int, drop_path: float, *, proj_drop: float, act_layer, norm_layer, **dd
    ) -> None:
        super().__init__()
        self.bn1 = norm_layer(in_chs, **dd)
        self.act1 = act_layer(inplace=True)
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride=stride, padding=1, bias=False, **dd)
        self.bn2 = norm_layer(out_chs, **dd)
        self.act2 = act_layer(inplace=True)
        self.drop = nn.Dropout(proj_drop)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, padding=1, bias=False, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        self.preact_shortcut = stride != 1 or in_chs != out_chs
        if self.preact_shortcut:
            self.downsample = nn.Conv2d(in_chs, out_chs, 1, stride=stride, bias=False, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        preact = self.act1(self.bn1(x))
        shortcut = self.downsample(preact if self.preact_shortcut else x)
        x = self.conv1(preact)
        x = self.conv2(self.drop(self.act2(self.bn2(x))))
        return self.drop_path(x) + shortcut


class PyramidBlock(nn.Module):
    """Residual branch that begins and ends with a norm; average-pooled, zero-padded shortcut.

    The activations are only between the convolutions. These are two 3x3 convolutions, or with `bottleneck` 1x1, 3x3 and
    1x1 convolutions with a quarter of the output's channels inside.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        stride: int,
        drop_path: float = 0.0,
        *,
        bottleneck: bool,
        act_layer: Any = nn.ReLU,
        norm_layer: Any = nn.BatchNorm2d,
        **dd: Any,
    ) -> None:
        super().__init__()
        conv: Any = partial(nn.Conv2d, bias=False, **dd)
        if bottleneck:
            mid_chs = out_chs // 4
            convs = [conv(in_chs, mid_chs, 1), conv(mid_chs, mid_chs, 3, stride, 1), conv(mid_chs, out_chs, 1)]
        else:
            convs = [conv(in_chs, out_chs, 3, stride, 1), conv(out_chs, out_chs, 3, 1, 1)]
        branch = [norm_layer(in_chs, **dd), convs[0]]
        for c in convs[1:]:
            branch += [norm_layer(c.in_channels, **dd), act_layer(inplace=True), c]
        self.branch = nn.Sequential(*branch, norm_layer(out_chs, **dd))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        # ceil_mode: the padded 3x3 convolution of stride 2 rounds odd sizes up
        self.pool = nn.AvgPool2d(2, 2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.pad = ZeroPadShortcut(out_chs - in_chs, stride=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop_path(self.branch(x)) + self.pad(self.pool(x))


class DenseLayer(nn.Module):
    """Append `growth_rate` channels to the input: 1x1 then 3x3 convolution, each after a norm and an activation."""

    def __init__(
        self, in_chs: int, growth_rate: int, bn_size: int, proj_drop: float, *, act_layer, norm_layer, **dd
    ) -> None:
        super().__init__()
        mid_chs = bn_size * growth_rate
        self.norm1 = norm_layer(in_chs, **dd)
        self.act1 = act_layer(inplace=True)
        self.conv1 = nn.Conv2d(in_chs, mid_chs, 1, bias=False, **dd)
        self.drop1 = nn.Dropout(proj_drop)
        self.norm2 = norm_layer(mid_chs, **dd)
        self.act2 = act_layer(inplace=True)
        self.conv2 = nn.Conv2d(mid_chs, growth_rate, 3, padding=1, bias=False, **dd)
        self.drop2 = nn.Dropout(proj_drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        new = self.drop1(self.conv1(self.act1(self.norm1(x))))
        new = self.drop2(self.conv2(self.act2(self.norm2(new))))
        return torch.cat([x, new], dim=1)


def transition(in_chs: int, out_chs: int, proj_drop: float, *, act_layer, norm_layer, **dd) -> nn.Sequential:
    """Norm, activation, 1x1 convolution to fewer channels, 2x2 average pooling."""
    conv = nn.Conv2d(in_chs, out_chs, 1, bias=False, **dd)
    modules = dict(norm=norm_layer(in_chs, **dd), act=act_layer(inplace=True), conv=conv)
    return nn.Sequential(OrderedDict(modules, drop=nn.Dropout(proj_drop), pool=nn.AvgPool2d(2, 2)))
