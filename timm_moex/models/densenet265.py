"""DenseNet-265 for ImageNet, as in the MoEx paper: timm's `DenseNet` at a size that timm does not register."""

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import DenseNet, build_model_with_cfg, register_model

from .registry import generate_default_cfgs, resolve_verified_cfg

__all__ = []

default_cfgs = generate_default_cfgs(
    {
        "densenet265": dict(
            num_classes=1000,
            input_size=(3, 224, 224),
            pool_size=(7, 7),
            crop_pct=0.875,
            interpolation="bicubic",
            mean=IMAGENET_DEFAULT_MEAN,
            std=IMAGENET_DEFAULT_STD,
            first_conv="features.conv0",
            classifier="classifier",
            license="apache-2.0",
            paper_ids="arXiv:1608.06993",
        )
    }
)


@register_model
def densenet265(pretrained: bool = False, **kwargs: Any) -> DenseNet:
    """DenseNet-BC with growth rate 32 and dense blocks of 6, 12, 64 and 48 layers, 33.3M parameters.

    Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, arXiv 1608.06993, which calls it DenseNet-264.
    """
    model_args = dict(growth_rate=32, block_config=(6, 12, 64, 48))
    if pretrained:
        cfg, cache_dir = kwargs.get("pretrained_cfg"), kwargs.get("cache_dir")
        kwargs["pretrained_cfg"] = resolve_verified_cfg("densenet265", cfg, cache_dir)
    return build_model_with_cfg(
        DenseNet, "densenet265", pretrained, feature_cfg=dict(flatten_sequential=True), **dict(model_args, **kwargs)
    )
