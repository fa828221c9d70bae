"""MoEx on features of point sets, (B, N, C): `python examples/points.py`.

As in the paper, which uses PointNet++, the norm is IN and the site is the end of the first stage.
"""

import torch
from torch import Tensor, nn

from timm_moex import MoExLoss, insert_moex


class PointNet(nn.Module):
    """Point-wise features, max pooling over the set, and a classifier."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(3, 32), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(32, 64), nn.ReLU())
        self.head = nn.Linear(64, classes)

    def forward(self, points: Tensor) -> Tensor:
        return self.head(self.second(self.first(points)).amax(dim=1))


def draw_points(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw 128 points (B, 128, 3) on a sphere (0), in a cube (1) or in a flat square (2)."""
    label = torch.randint(3, (count,), generator=generator)
    cube = 2 * torch.rand(count, 128, 3, generator=generator) - 1
    square = cube * torch.tensor([1.0, 1.0, 0.0])
    shapes = torch.stack([nn.functional.normalize(cube, dim=-1), cube, square])
    return shapes[label, torch.arange(count)], label


def main(steps: int = 60) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    model = insert_moex(PointNet(classes=3), "first", norm="in", channel_dim=-1, prob=0.5, lam=0.9)
    criterion = MoExLoss(model.train(), nn.CrossEntropyLoss())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        points, label = draw_points(64, generator)
        loss = criterion(model(points), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    points, label = draw_points(256, generator)
    with torch.no_grad():
        correct = model.eval()(points).argmax(1) == label
    print(f"top-1 on new points: {100 * correct.float().mean():.1f} %")
    return losses


if __name__ == "__main__":
    print(f"loss of the last step: {main()[-1]:.3f}")
