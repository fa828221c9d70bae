"""DenseNet-265 for ImageNet, as in the MoEx paper: timm's `DenseNet` at a size that timm does not register."""

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import DenseNet, build_model_with_cfg, generate_default_cfgs, register_model

__all__ = []

_CFG = dict(num_classes=1000, input_size=(3, 224, 224), pool_size=(7, 7), crop_pct=0.875, interpolation="bicubic")
_CFG |= dict(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, paper_ids="arXiv:1608.06993", license="apache-2.0")
_CFG |= dict(first_conv="features.conv0", classifier="classifier")

default_cfgs = generate_default_cfgs({"densenet265": _CFG})


@register_model
def densenet265(pretrained: bool = False, **kwargs: Any) -> DenseNet:
    """DenseNet-BC with growth rate 32 and dense blocks of 6, 12, 64 and 48 layers, 33.3M parameters.

    Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, arXiv 1608.06993, which calls it DenseNet-264.
    """
    kwargs = dict(dict(growth_rate=32, block_config=(6, 12, 64, 48)), **kwargs)
    return build_model_with_cfg(
        DenseNet, "densenet265", pretrained, feature_cfg=dict(flatten_sequential=True), **kwargs
    )
