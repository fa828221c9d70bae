"""Pre-activation ResNets for CIFAR, narrow and wide.

He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016, arXiv 1603.05027, and Zagoruyko and Komodakis,
"Wide Residual Networks", BMVC 2016, arXiv 1605.07146, which widens the same block k times.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import DropPath, LayerType, get_act_layer, get_norm_layer
from timm.models import register_model
from torch import nn

from .cifar_net import CifarNet, build_cifar_net, cifar_cfg, make_stages
from .registry import generate_default_cfgs

__all__ = ["CifarPreActResNet"]


class PreActBlock(nn.Module):
    """Norm, activation and 3x3 convolution, twice; a shortcut that changes shape is a 1x1 convolution of the first
    activation. `preact_shortcut` says whether the shortcut starts at that activation or at the block's input."""

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        stride: int = 1,
        drop_path: float = 0.0,
        proj_drop: float = 0.0,
        act_layer: type[nn.Module] = nn.ReLU,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
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


class CifarPreActResNet(CifarNet):
    """Bare 3x3 convolution as stem, stages of pre-activation blocks, a final norm and activation.

    The first block's activation is shared by both its branches (He et al. 2016, appendix).

    Args:
        depths: Blocks per stage, three or four stages.
        widths: Channels per stage.
        stem_chs: Channels of the stem.
        drop_path_rate: Probability of dropping the last block's residual branch; grows linearly from 0 over the depth.
        proj_drop_rate: Dropout between the two convolutions of each block (Zagoruyko and Komodakis, section 2.4).
        act_layer: Activation, by timm's name or as a class.
        norm_layer: Norm, by timm's name or as a class.
        device: Device of the parameters.
        dtype: Type of the parameters.
        **kwargs: `num_classes`, `in_chans`, `global_pool`, `drop_rate` of `CifarNet`.
    """

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 2, 2),
        widths: Sequence[int] = (64, 128, 256, 512),
        stem_chs: int = 64,
        drop_path_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        act_layer: LayerType = nn.ReLU,
        norm_layer: LayerType = nn.BatchNorm2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        layers: dict[str, Any] = dict(act_layer=get_act_layer(act_layer), norm_layer=get_norm_layer(norm_layer))
        layers.update(device=device, dtype=dtype)
        block = partial(PreActBlock, proj_drop=proj_drop_rate, **layers)
        stages = make_stages(block, depths, widths, stem_chs, drop_path_rate)
        stages[0].blocks[0].preact_shortcut = True  # type: ignore[assignment]
        super().__init__(stem_chs, stages, stem_end="conv1", final_norm=True, **layers, **kwargs)


default_cfgs = generate_default_cfgs(
    {
        "preact_resnet18_cifar": cifar_cfg(pool_size=(4, 4), paper_ids="arXiv:1603.05027"),
        "wrn16_4_cifar": cifar_cfg(paper_ids="arXiv:1605.07146"),
        "wrn28_10_cifar": cifar_cfg(paper_ids="arXiv:1605.07146"),
        "wrn40_4_cifar": cifar_cfg(paper_ids="arXiv:1605.07146"),
    }
)


def _create_wide(variant: str, pretrained: bool, depth: int, width: int, **kwargs: Any) -> CifarPreActResNet:
    """WRN-depth-width; like the paper, depth = 6n + 4 counts convolutions: stem, blocks and three projections."""
    model_args = dict(depths=((depth - 4) // 6,) * 3, widths=(16 * width, 32 * width, 64 * width), stem_chs=16)
    return build_cifar_net(CifarPreActResNet, variant, pretrained, **dict(model_args, **kwargs))


@register_model
def preact_resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> CifarPreActResNet:
    """PreAct ResNet-18 for CIFAR, ImageNet's four stages of 64 to 512 channels on a 3x3 stem, 11.2M parameters."""
    return build_cifar_net(CifarPreActResNet, "preact_resnet18_cifar", pretrained, num_stages=4, **kwargs)


@register_model
def wrn16_4_cifar(pretrained: bool = False, **kwargs: Any) -> CifarPreActResNet:
    """WRN-16-4, 2.7M parameters."""
    return _create_wide("wrn16_4_cifar", pretrained, 16, 4, **kwargs)


@register_model
def wrn28_10_cifar(pretrained: bool = False, **kwargs: Any) -> CifarPreActResNet:
    """WRN-28-10, 36.5M parameters."""
    return _create_wide("wrn28_10_cifar", pretrained, 28, 10, **kwargs)


@register_model
def wrn40_4_cifar(pretrained: bool = False, **kwargs: Any) -> CifarPreActResNet:
    """WRN-40-4, 8.9M parameters."""
    return _create_wide("wrn40_4_cifar", pretrained, 40, 4, **kwargs)
