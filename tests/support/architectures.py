"""The table of small architectures that drives all cross-architecture tests."""

# plain timm name → image side that keeps the test quick
ARCHS = {
    "resnet10t": 64,
    "resnetv2_18": 64,
    "densenet121": 64,
    "regnety_002": 64,
    "efficientnet_lite0": 64,
    "mobilenetv3_small_050": 64,
    "convnext_atto": 64,
    "vit_tiny_patch16_224": 224,
    "resnet20_cifar": 28,
}


def images(arch: str, batch: int = 3, in_chans: int = 3):
    import torch

    return torch.randn(batch, in_chans, ARCHS[arch], ARCHS[arch])
