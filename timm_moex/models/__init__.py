"""Plain architectures that timm lacks; importing this package registers them under plain names."""

from . import cifar_variants, densenet265  # noqa: F401
