"""A loader for a small dataset that is kept on the device, and cropped and flipped there."""

import argparse
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from .images import DataError

__all__ = ["InMemoryLoader", "check_in_memory"]


def check_in_memory(args: argparse.Namespace) -> None:
    """Raise a `DataError` if a recipe uses an augmentation that `InMemoryLoader` does not support."""
    if args.no_aug:
        return
    wanted = ("vflip", "color_jitter", "grayscale_prob", "gaussian_blur_prob", "aa")
    asked = [f"{key}={getattr(args, key)!r}" for key in wanted if getattr(args, key)]
    if asked:
        raise DataError(
            f"--in-memory only crops, flips and erases; it does not support {', '.join(asked)}. Set these to 0 "
            "(aa: null), or leave out --in-memory"
        )


class InMemoryLoader:
    """A loader for a small dataset that is decoded once, kept on the device as bytes, and augmented there in batches.

    The crop follows the CIFAR papers: `pad` zero pixels on every side, then a window of the original size. It replaces
    train.py's `train_crop_mode`, `scale` and `ratio`, which resize, so the same recipe augments similarly but not
    identically with the two loaders. Evaluation is bit-equal to timm's loader.

    Args:
        loader: timm's loader of the dataset with the evaluation transform (`create_eval_loader`).
        training: Whether to shuffle, augment, and drop the last short batch.
        pad: Width of the zero padding for the crop, in pixels.
        hflip: Probability of a horizontal flip.
        erasing: timm's random erasing, applied to the normalised batch.
        seed: Seed of the loader's own generator (order, crops, flips), which stays on the CPU.
        rank: Which share of each training step to yield, from 0.
        processes: Number of shares in a step. Every process draws for all shares and keeps its own, so that together
            the shares equal the larger batches of a single process.
    """

    def __init__(
        self,
        loader: Any,
        *,
        training: bool = False,
        pad: int = 0,
        hflip: float = 0.0,
        erasing: RandomErasing | None = None,
        seed: int = 42,
        rank: int = 0,
        processes: int = 1,
    ):
        if pad < 0:
            raise ValueError(f"pad={pad}: expected a width of at least 0 pixels")
        batches = list(loader.loader)  # the prefetcher's input from the workers: uint8 images, labels
        images = torch.cat([images for images, _ in batches]).to(loader.device)
        self.height, self.width = images.shape[-2:]
        self.images = F.pad(images, (pad, pad, pad, pad))  # (N, C, H + 2 pad, W + 2 pad), uint8
        self.targets = torch.cat([targets for _, targets in batches]).to(loader.device)
        self.mean, self.std, self.dtype = loader.mean, loader.std, loader.img_dtype
        self.batch_size, self.training = loader.loader.batch_size, training
        self.pad, self.hflip, self.erasing = pad, hflip, erasing
        self.dataset = loader.dataset
        self.rank, self.processes = rank, processes
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.targets), self.batch_size * self.processes)
        return whole + (rest > 0 and not self.training)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self.targets)
        order = torch.randperm(count, generator=self.generator) if self.training else torch.arange(count)
        step = self.batch_size * self.processes
        for index in order[: len(self) * step].split(step):
            if self.training:
                images, index = self._window(index)
            else:
                images = self.images[index.to(self.images.device, non_blocking=True)]
            images = images.to(self.dtype).sub_(self.mean).div_(self.std)
            if self.erasing is not None:
                images = self.erasing(images)
            yield images, self.targets[index.to(self.targets.device, non_blocking=True)]

    def _window(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Crop and flip this process's share of images `index` at random, by one gather from the padded dataset.

        Returns:
            The images, (B, C, H, W), uint8, and the share of `index`, (B,).
        """
        device, count = self.images.device, len(index)
        top, left = torch.randint(2 * self.pad + 1, (2, count, 1), generator=self.generator)
        flip = torch.rand(count, 1, generator=self.generator) < self.hflip
        share = slice(self.rank, None, self.processes)
        index, top, left, flip = index[share], top[share], left[share], flip[share]
        rows = top + torch.arange(self.height)  # (B, H)
        cols = torch.arange(self.width)
        cols = left + torch.where(flip, cols.flip(0), cols)  # (B, W)
        channels = torch.arange(self.images.shape[1], device=device)
        # does not block: a copy from pageable memory has been read when the call returns
        index, rows, cols = (x.to(device, non_blocking=True) for x in (index, rows, cols))
        images = self.images[
            index[:, None, None, None],
            channels[None, :, None, None],
            rows[:, None, :, None],
            cols[:, None, None, :],
        ]
        return images, index
