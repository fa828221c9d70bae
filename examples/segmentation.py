"""Segmentation with MixStyle in the encoder: labels stay whole, so dense tasks need nothing but the exchange.

    python examples/segmentation.py

The encoder is a `features_only` twin; segmentation_models_pytorch's `encoder_name="tu-moex_resnet18"` takes one the
same way, with `timm_moex.exchanging(model, …)` around its forward. The data are generated discs on a noisy ground.
"""

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import timm_moex


class SmallUNet(nn.Module):
    """A features_only encoder and one convolution per level on the way back up."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        *channels, deepest = encoder.feature_info.channels()
        self.deepest = nn.Conv2d(deepest, 16, 1)
        self.up = nn.ModuleList(nn.Conv2d(width + 16, 16, 3, padding=1) for width in reversed(channels))
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        *features, deepest = self.encoder(x)
        y = self.deepest(deepest)
        for feature, conv in zip(reversed(features), self.up):
            y = F.relu(conv(torch.cat([feature, F.interpolate(y, size=feature.shape[-2:])], dim=1)))
        return F.interpolate(self.head(y), size=x.shape[-2:], mode="bilinear")


def discs(count: int) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 64, 64) and masks (N, 1, 64, 64)."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    centre, radius = 16 + 32 * torch.rand(count, 2, 1, 1), 8 + 8 * torch.rand(count, 1, 1)
    masks = ((rows - centre[:, 0]).square() + (columns - centre[:, 1]).square() < radius.square()).float()[:, None]
    colours = torch.rand(count, 3, 1, 1)
    return masks * colours + 0.2 * torch.randn(count, 3, 64, 64), masks


def main(steps: int = 60) -> float:
    torch.manual_seed(0)
    encoder = timm.create_model(
        "moex_test_resnet",
        features_only=True,
        out_indices=(0, 1, 2),
        moex_preset="mixstyle",
        moex_layer=["stage1", "stage2"],
    )
    model = SmallUNet(encoder)
    moex = timm_moex.find_moex(model)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(steps):
        images, masks = discs(8)
        donors = {site: timm_moex.draw_swap_index(len(images), moex.prob) for site in moex.site_names}
        donors = {site: index for site, index in donors.items() if index is not None}
        shares = {site: timm_moex.draw_own_share(len(images), moex.alpha) for site in donors}
        with timm_moex.exchanging(model, donors, own_share=shares):
            logits = model(images)
        loss = F.binary_cross_entropy_with_logits(logits, masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, masks = discs(64)
    with torch.inference_mode():
        predicted = model.eval()(images) > 0
    union = (predicted | (masks > 0)).sum()
    iou = ((predicted & (masks > 0)).sum() / union).item()
    print(f"intersection over union after {steps} steps: {iou:.2f}")
    return iou


if __name__ == "__main__":
    main()
