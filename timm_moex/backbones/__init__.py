"""Plain architectures that timm lacks; importing this package registers them under plain names."""

from timm_moex.backbones import cifar_resnet  # noqa: F401
