"""DenseNet-BC for CIFAR: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, section 3, 1608.06993."""

from typing import Any

import torch
from timm.layers import LayerType, get_act_layer, get_norm_layer
from timm.models import register_model
from torch import nn

from .cifar_net import CifarNet, Stage, build_cifar_net, cifar_cfg
from .registry import generate_default_cfgs

__all__ = ["CifarDenseNet"]


class DenseLayer(nn.Module):
    """Appends `growth_rate` channels to its input: 1x1 then 3x3 convolution, each after a norm and an activation."""

    def __init__(
        self,
        in_chs: int,
        growth_rate: int,
        bn_size: int,
        proj_drop: float,
        act_layer: type[nn.Module],
        norm_layer: type[nn.Module],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
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


class Transition(nn.Module):
    """Norm, activation, 1x1 convolution to fewer channels, 2x2 average pooling."""

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        proj_drop: float,
        act_layer: type[nn.Module],
        norm_layer: type[nn.Module],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.norm = norm_layer(in_chs, device=device, dtype=dtype)
        self.act = act_layer(inplace=True)
        self.conv = nn.Conv2d(in_chs, out_chs, 1, bias=False, device=device, dtype=dtype)
        self.drop = nn.Dropout(proj_drop)
        self.pool = nn.AvgPool2d(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.drop(self.conv(self.act(self.norm(x)))))


class CifarDenseNet(CifarNet):
    """The paper's 6n + 4 layer DenseNet-BC: 3x3 stem of 2k channels, three dense blocks of n bottleneck layers.

    `layer2` and `layer3` begin with the transition that halves the channels and the resolution, so each stage's output
    is a whole dense block.

    Args:
        depth: Weighted layers, 6n + 4.
        growth_rate: Channels each dense layer adds (k of the paper).
        bn_size: Channels between the two convolutions of a dense layer, in growth rates.
        proj_drop_rate: Dropout after every convolution but the stem (0.2 in the paper for data without augmentation).
        act_layer: Activation, by timm's name or as a class.
        norm_layer: Norm, by timm's name or as a class.
        device: Device of the parameters.
        dtype: Type of the parameters.
        **kwargs: `num_classes`, `in_chans`, `global_pool`, `drop_rate` of `CifarNet`.

    Raises:
        ValueError: A depth that is not 6n + 4.
    """

    def __init__(
        self,
        depth: int = 100,
        growth_rate: int = 12,
        bn_size: int = 4,
        proj_drop_rate: float = 0.0,
        act_layer: LayerType = nn.ReLU,
        norm_layer: LayerType = nn.BatchNorm2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        num_layers, rest = divmod(depth - 4, 6)
        if rest or num_layers < 1:
            raise ValueError(f"depth must be 6n + 4 with n >= 1 (40, 100, 190, 250, …), got {depth}.")
        layers: dict[str, Any] = dict(act_layer=get_act_layer(act_layer), norm_layer=get_norm_layer(norm_layer))
        layers.update(device=device, dtype=dtype)
        stem_chs = chs = 2 * growth_rate
        stages = []
        for i in range(3):
            blocks: list[nn.Module] = []
            if i > 0:
                blocks.append(Transition(chs, chs // 2, proj_drop_rate, **layers))
                chs //= 2
            for _ in range(num_layers):
                blocks.append(DenseLayer(chs, growth_rate, bn_size, proj_drop_rate, **layers))
                chs += growth_rate
            stages.append(Stage(blocks, chs, 1 if i == 0 else 2))
        super().__init__(stem_chs, stages, stem_end="conv1", final_norm=True, **layers, **kwargs)


default_cfgs = generate_default_cfgs(
    {
        "densenet_bc100_12_cifar": cifar_cfg(paper_ids="arXiv:1608.06993"),
        "densenet_bc190_40_cifar": cifar_cfg(paper_ids="arXiv:1608.06993"),
    }
)


@register_model
def densenet_bc100_12_cifar(pretrained: bool = False, **kwargs: Any) -> CifarDenseNet:
    """DenseNet-BC, depth 100, growth rate 12, 0.8M parameters."""
    model_args = dict(depth=100, growth_rate=12)
    return build_cifar_net(CifarDenseNet, "densenet_bc100_12_cifar", pretrained, **dict(model_args, **kwargs))


@register_model
def densenet_bc190_40_cifar(pretrained: bool = False, **kwargs: Any) -> CifarDenseNet:
    """DenseNet-BC, depth 190, growth rate 40, 25.6M parameters."""
    model_args = dict(depth=190, growth_rate=40)
    return build_cifar_net(CifarDenseNet, "densenet_bc190_40_cifar", pretrained, **dict(model_args, **kwargs))
