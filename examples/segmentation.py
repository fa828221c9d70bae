"""Semantic segmentation with MixStyle in the encoder: `python examples/segmentation.py`.

MixStyle takes one pair of moments per channel. These describe the style of an image and contain no positions, so each
image keeps its own mask. The encoder is a twin with `features_only=True`. It exchanges while it trains, and the loop
does not change. In segmentation_models_pytorch, use `encoder_name="tu-moex_resnet18", moex_preset="mixstyle"`.
"""

import timm
import torch
from torch import Tensor, nn

import timm_moex  # noqa: F401  registers the twins


class Segmenter(nn.Module):
    """Encoder followed by a convolution that classifies each pixel."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        settings = dict(moex_preset="mixstyle", moex_layer=["stem", "stage1"])
        self.encoder = timm.create_model("moex_test_resnet", features_only=True, out_indices=(0, 1), **settings)
        self.head = nn.Conv2d(sum(self.encoder.feature_info.channels()), classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (B, classes, H, W) of images (B, 3, H, W)."""
        features = [nn.functional.interpolate(level, x.shape[-2:], mode="bilinear") for level in self.encoder(x)]
        return self.head(torch.cat(features, dim=1))


def draw_discs(count: int, generator: torch.Generator, size: int = 64) -> tuple[Tensor, Tensor]:
    """Draw images (B, 3, H, W) of a coloured disc on a noisy background, and their 0/1 masks (B, H, W)."""
    grid = torch.arange(size)
    centre = torch.randint(16, size - 16, (2, count, 1, 1), generator=generator)
    dy, dx = grid[:, None] - centre[0], grid[None, :] - centre[1]
    masks = dy**2 + dx**2 < 144
    colours = torch.rand(count, 3, 1, 1, generator=generator)
    return masks[:, None] * colours + 0.2 * torch.randn(count, 3, size, size, generator=generator), masks.long()


def main(steps: int = 100) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    model = Segmenter(classes=2).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(steps):
        images, masks = draw_discs(16, generator)
        loss = nn.functional.cross_entropy(model(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    images, masks = draw_discs(64, generator)
    with torch.inference_mode():
        predicted = model.eval()(images).argmax(dim=1)
    overlap = (predicted & masks).sum() / (predicted | masks).sum()
    print(f"intersection over union on new images: {overlap:.2f}")
    return losses


if __name__ == "__main__":
    main()
