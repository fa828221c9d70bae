"""Semantic segmentation with a features_only twin. Each image keeps its own mask: `moex_lam=1.0`.

A mask belongs to positions, and the donor's objects lie elsewhere. So the exchange changes the features' style alone:
IN's moments (one pair per channel) carry no positions, and the labels are not mixed.
"""

import timm
import torch
from torch import Tensor, nn

from timm_moex import create_task


class Segmenter(nn.Module):
    """A features_only twin with a convolution that classifies each pixel."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        settings = dict(moex_layer="stem", moex_norm="in", moex_prob=0.5, moex_lam=1.0)
        self.encoder = timm.create_model("moex_test_resnet", features_only=True, out_indices=(1,), **settings)
        self.head = nn.Conv2d(self.encoder.feature_info.channels()[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(self.encoder(x)[0])
        return nn.functional.interpolate(logits, x.shape[-2:], mode="bilinear")


def draw_shapes(count: int, generator: torch.Generator, size: int = 64) -> tuple[Tensor, Tensor]:
    """Draw a disc (class 1) or a square (class 2) of random colour in each image: (B, 3, H, W) and masks (B, H, W)."""
    grid = torch.arange(size)
    centre = torch.randint(16, size - 16, (2, count, 1, 1), generator=generator)
    dy, dx = (grid[:, None] - centre[0]).abs(), (grid[None, :] - centre[1]).abs()
    is_disc = torch.rand(count, 1, 1, generator=generator) < 0.5
    inside = torch.where(is_disc, dy**2 + dx**2 < 144, torch.maximum(dy, dx) < 12)
    masks = torch.where(is_disc, 1, 2) * inside
    colours = torch.rand(2, count, 3, 1, 1, generator=generator)
    images = torch.where(inside[:, None], colours[0], colours[1])
    return images + 0.05 * torch.randn(images.shape, generator=generator), masks


def main(steps: int = 40) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    task = create_task(Segmenter(classes=3).train(), nn.CrossEntropyLoss(), verbose=False)
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = task(*draw_shapes(16, generator))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print(f"loss of the last step: {main()[-1]:.3f}")
