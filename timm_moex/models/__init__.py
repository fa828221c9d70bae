"""Architectures that timm does not have; importing this package registers them."""

from . import cifar_variants, densenet265  # noqa: F401
