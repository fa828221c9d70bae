"""Donors from another group (drawing style, device, hospital) in your own loop: `python examples/groups.py`.

As in the "crossdomain" variant of MixStyle, every sample mixes its moments with those of a sample from another group.
The sampler puts samples of all groups into each batch, so that there is always such a donor. The images are generated:
squares and discs, recorded by three "cameras" with different gain and offset. The camera is the group. The model is
evaluated on images from a fourth camera.
"""

from collections.abc import Iterator
from itertools import chain, repeat

import timm
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

import timm_moex

DATA_CONFIG = {"input_size": (3, 32, 32), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # as `shapes` draws them


class MixedBatches(Sampler[list[int]]):
    """Yield batches with the same number of samples from each group, in random order."""

    def __init__(self, groups: Tensor, batch_size: int):
        self.members = [(groups == group).nonzero().flatten() for group in groups.unique()]
        if batch_size % len(self.members):
            raise ValueError(f"batch_size={batch_size}: expected a multiple of the {len(self.members)} groups")
        self.share = batch_size // len(self.members)

    def __len__(self) -> int:
        return min(map(len, self.members)) // self.share

    def __iter__(self) -> Iterator[list[int]]:
        shuffled = [members[torch.randperm(len(members))].split(self.share) for members in self.members]
        for parts in list(zip(*shuffled))[: len(self)]:
            yield torch.cat(parts).tolist()


def shapes(count: int, cameras: list[tuple[float, float]]) -> tuple[Tensor, Tensor, Tensor]:
    """Draw images (N, 3, 32, 32), labels (N,) (0 square, 1 disc) and groups (N,): cameras with a gain and an offset."""
    labels, groups = torch.randint(2, (count,)), torch.arange(count) % len(cameras)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    centre, size = 10 + 12 * torch.rand(count, 2, 1, 1), 5 + 4 * torch.rand(count, 1, 1)
    dy, dx = (rows - centre[:, 0]).abs(), (columns - centre[:, 1]).abs()
    square, disc = torch.maximum(dy, dx) < size, dy.square() + dx.square() < size.square()
    masks = torch.where(labels[:, None, None] == 0, square, disc).float()[:, None].expand(-1, 3, -1, -1)
    gain, offset = torch.tensor(cameras)[groups].T[:, :, None, None, None]
    images = gain * masks + offset
    return images + 0.1 * torch.randn(images.shape), labels, groups


def main(steps: int = 200, output: str = "output/groups") -> list[float]:
    torch.manual_seed(0)
    images, labels, groups = shapes(960, [(0.5, -1.0), (1.0, 0.0), (2.0, 1.0)])
    model = timm.create_model("moex_test_resnet", num_classes=2, moex_preset="mixstyle").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    loader = DataLoader(TensorDataset(images, labels, groups), batch_sampler=MixedBatches(groups, 24))
    losses = []
    for _, (x, y, group) in zip(range(steps), chain.from_iterable(repeat(loader))):
        logits = model(x, groups=group)
        loss = torch.nn.functional.cross_entropy(logits, y)  # own labels: the group does not decide the class
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    images, labels, _ = shapes(480, [(3.0, -2.0)])
    with torch.no_grad():
        correct = model.eval()(images).argmax(1) == labels
    print(f"top-1 on a fourth camera: {100 * correct.float().mean():.1f} %")
    timm_moex.save_folder(model, output, DATA_CONFIG, label_names=["square", "disc"])
    return losses


if __name__ == "__main__":
    print(f"loss of the last step: {main()[-1]:.3f}")
