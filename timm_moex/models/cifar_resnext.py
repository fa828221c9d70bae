"""ResNeXt for CIFAR: Xie et al., "Aggregated Residual Transformations", CVPR 2017, section 5.3, arXiv 1611.05431."""

from functools import partial
from typing import Any

import torch
from timm.layers import DropPath, LayerType, get_act_layer, get_norm_layer
from timm.models import register_model
from torch import nn

from .cifar_net import CifarNet, build_cifar_net, cifar_cfg, make_stages
from .registry import generate_default_cfgs

__all__ = ["CifarResNeXt"]


class GroupedBottleneck(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolution, each normalised; the shortcut is projected where the shape changes.

    Args:
        in_chs: Channels in.
        out_chs: Channels out.
        stride: Stride of the 3x3 convolution and of the projection.
        drop_path: Probability of dropping the residual branch.
        cardinality: Groups of the 3x3 convolution.
        base_width: Channels per group where `out_chs` is 256; proportional to it elsewhere.
        act_layer: Activation class.
        norm_layer: Norm class.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        stride: int = 1,
        drop_path: float = 0.0,
        cardinality: int = 8,
        base_width: int = 64,
        act_layer: type[nn.Module] = nn.ReLU,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        mid_chs = out_chs * base_width // 256 * cardinality
        self.conv1 = nn.Conv2d(in_chs, mid_chs, 1, bias=False, **dd)
        self.bn1 = norm_layer(mid_chs, **dd)
        self.act1 = act_layer(inplace=True)
        self.conv2 = nn.Conv2d(mid_chs, mid_chs, 3, stride=stride, padding=1, groups=cardinality, bias=False, **dd)
        self.bn2 = norm_layer(mid_chs, **dd)
        self.act2 = act_layer(inplace=True)
        self.conv3 = nn.Conv2d(mid_chs, out_chs, 1, bias=False, **dd)
        self.bn3 = norm_layer(out_chs, **dd)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_chs != out_chs:
            projection = nn.Conv2d(in_chs, out_chs, 1, stride=stride, bias=False, **dd)
            self.downsample = nn.Sequential(projection, norm_layer(out_chs, **dd))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.act3 = act_layer(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.downsample(x)
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.act3(self.drop_path(x) + shortcut)


class CifarResNeXt(CifarNet):
    """The paper's 9n + 2 layer network: 3x3 stem of 64, three stages of n blocks with 256, 512 and 1024 channels.

    Args:
        depth: Weighted layers, 9n + 2.
        cardinality: Groups of the 3x3 convolutions.
        base_width: Channels per group in the first stage; doubles from stage to stage.
        drop_path_rate: Probability of dropping the last block's residual branch; grows linearly from 0 over the depth.
        act_layer: Activation, by timm's name or as a class.
        norm_layer: Norm, by timm's name or as a class.
        device: Device of the parameters.
        dtype: Type of the parameters.
        **kwargs: `num_classes`, `in_chans`, `global_pool`, `drop_rate` of `CifarNet`.

    Raises:
        ValueError: A depth that is not 9n + 2.
    """

    def __init__(
        self,
        depth: int = 29,
        cardinality: int = 8,
        base_width: int = 64,
        drop_path_rate: float = 0.0,
        act_layer: LayerType = nn.ReLU,
        norm_layer: LayerType = nn.BatchNorm2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        num_blocks, rest = divmod(depth - 2, 9)
        if rest or num_blocks < 1:
            raise ValueError(f"depth must be 9n + 2 with n >= 1 (11, 20, 29, …), got {depth}.")
        layers: dict[str, Any] = dict(act_layer=get_act_layer(act_layer), norm_layer=get_norm_layer(norm_layer))
        layers.update(device=device, dtype=dtype)
        block = partial(GroupedBottleneck, cardinality=cardinality, base_width=base_width, **layers)
        stages = make_stages(block, (num_blocks,) * 3, (256, 512, 1024), 64, drop_path_rate)
        super().__init__(64, stages, **layers, **kwargs)


default_cfgs = generate_default_cfgs({"resnext29_8x64d_cifar": cifar_cfg(paper_ids="arXiv:1611.05431")})


@register_model
def resnext29_8x64d_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNeXt:
    """ResNeXt-29, 8x64d, for CIFAR, 34.4M parameters."""
    model_args = dict(depth=29, cardinality=8, base_width=64)
    return build_cifar_net(CifarResNeXt, "resnext29_8x64d_cifar", pretrained, **dict(model_args, **kwargs))
