"""Plain architectures that timm lacks; importing this package registers them under plain names."""

from . import (  # noqa: F401
    cifar_densenet,
    cifar_preact,
    cifar_pyramid,
    cifar_resnet,
    cifar_resnext,
    densenet265,
)
