"""Small models of the six families on which every ecosystem test runs."""

import timm
import torch

import timm_moex  # noqa: F401  registers the twins

# plain timm name → image side and what makes the model small
SMALL = {
    "resnet10t": (32, {}),
    "densenet121": (32, dict(block_config=(2, 2, 2, 2))),
    "test_efficientnet": (32, {}),
    "convnext_atto": (32, dict(depths=(1, 1, 1, 1))),
    "swin_tiny_patch4_window7_224": (
        64,
        dict(img_size=64, window_size=2, embed_dim=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)),
    ),
    "vit_tiny_patch16_224": (64, dict(img_size=64, depth=3)),
}
IDX = torch.tensor([1, 2, 3, 0])


def small(arch: str, **kwargs) -> torch.nn.Module:
    """`arch` or, with the prefix `moex_`, its twin, with weights that depend only on `arch`."""
    torch.manual_seed(1)
    return timm.create_model(arch, num_classes=10, **SMALL[arch.removeprefix("moex_")][1], **kwargs)


def twin(arch: str, **kwargs) -> torch.nn.Module:
    return small(f"moex_{arch}", **kwargs)


def images(arch: str, batch: int = 4) -> torch.Tensor:
    size = SMALL[arch][0]
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(2))
