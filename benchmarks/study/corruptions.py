"""Corrupt images: twelve kinds at five severities, reproducible by seed.

The idea and most of the kinds come from ImageNet-C (Hendrycks & Dietterich, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations", ICLR 2019, https://arxiv.org/abs/1903.12261). The severities are
our own, for grey images of 28x28 pixels, so errors are not comparable with ImageNet-C's. They were chosen by eye and on
one net (resnet20_cifar.fmnist_sample) before any net of the study was trained. Lengths are fractions of the image's
shorter side, so that larger images are corrupted equally.

Every function takes images (N, C, H, W), uint8, with one or three channels, the amount of damage, and a generator on
the CPU, the only source of randomness. It returns new images of the same shape and type.
"""

import io
import math
import zlib
from collections.abc import Callable

import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image
from torch import Generator, Tensor
from torchvision.transforms import InterpolationMode

from timm_moex.utils.messages import did_you_mean

ELASTIC_SMOOTHNESS = 0.1  # standard deviation of the blur that smooths the random field, in shorter sides
OCCLUDED = 127  # grey level


def gaussian_noise(images: Tensor, amount: float, generator: Generator) -> Tensor:
    """Add independent noise to every pixel and channel; `amount` is its standard deviation as a part of full scale."""
    return _bytes(images + 255 * amount * torch.randn(images.shape, generator=generator))


def shot_noise(images: Tensor, amount: float, generator: Generator) -> Tensor:
    """Add Poisson noise of photons, with `amount` of them expected at full scale; black stays black."""
    return _bytes(torch.poisson(images / 255 * amount, generator=generator) * (255 / amount))


def salt_and_pepper(images: Tensor, amount: float, generator: Generator) -> Tensor:
    """Set the fraction `amount` of the pixels, all channels together, to black or white with equal probability."""
    count, _, height, width = images.shape
    draw = torch.rand(count, 1, height, width, generator=generator)
    black, white = draw < amount / 2, (draw >= amount / 2) & (draw < amount)
    return images.masked_fill(black, 0).masked_fill(white, 255)


def gaussian_blur(images: Tensor, amount: float, generator: Generator) -> Tensor:
    """Blur with the standard deviation `amount`, in shorter sides."""
    return _blur(images, amount)


def pixelate(images: Tensor, amount: float, generator: Generator) -> Tensor:
    """Shrink to the fraction `amount` of the size, and enlarge again with visible pixels."""
    size = images.shape[-2:]
    small = [max(1, round(side * amount)) for side in size]
    return TF.resize(TF.resize(images, small, antialias=True), list(size), InterpolationMode.NEAREST)


def jpeg(images: Tensor, amount: int, generator: Generator) -> Tensor:
    """Compress with JPEG quality `amount`, 1 to 100."""
    out = []
    for image in images:  # with Pillow, since torchvision deprecates its codec
        file = io.BytesIO()
        TF.to_pil_image(image).save(file, "JPEG", quality=amount)
        out.append(TF.pil_to_tensor(Image.open(file)))
    return torch.stack(out)


def brightness(images: Tensor, amount: float, generator: Generator) -> Tensor:
    """Expose `amount` times as long: black stays black, anything brighter than white is white."""
    return TF.adjust_brightness(images, float(amount))  # an int would multiply in uint8 and wrap around


def contrast(images: Tensor, amount: float, generator: Generator) -> Tensor:
    """Keep the fraction `amount` of each pixel's distance from its image's mean grey: a black background turns grey."""
    return TF.adjust_contrast(images, amount)


def posterize(images: Tensor, amount: int, generator: Generator) -> Tensor:
    """Keep the highest `amount` of a channel's eight bits."""
    return TF.posterize(images, amount)


def rotation(images: Tensor, amount: float, generator: Generator) -> Tensor:
    """Rotate by `amount` degrees to either side; the corners become black."""
    left = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    there, back = (TF.rotate(images, angle, InterpolationMode.BILINEAR) for angle in (amount, -amount))
    return torch.where(left, there, back)


def elastic(images: Tensor, amount: float, generator: Generator) -> Tensor:
    """Move every pixel along a smooth random field, each axis by `amount` shorter sides (root mean square)."""
    count, _, height, width = images.shape
    field = _blur(torch.randn(count, 2, height, width, generator=generator), ELASTIC_SMOOTHNESS)
    field *= amount * min(height, width) / field.square().mean((2, 3), keepdim=True).sqrt()  # pixels
    field = field.permute(0, 2, 3, 1) * 2 / torch.tensor([width, height])  # torchvision's unit: half an image
    return torch.stack([TF.elastic(image, move[None]) for image, move in zip(images, field)])


def occlusion(images: Tensor, amount: float, generator: Generator) -> Tensor:
    """Hide a square of `amount` shorter sides, anywhere within the image, behind mid-grey."""
    count, _, height, width = images.shape
    side = max(1, round(amount * min(height, width)))
    top = torch.randint(height - side + 1, (count,), generator=generator).tolist()
    left = torch.randint(width - side + 1, (count,), generator=generator).tolist()
    grey = torch.tensor(OCCLUDED, dtype=torch.uint8)
    return torch.stack([TF.erase(image, i, j, side, side, grey) for image, i, j in zip(images, top, left)])


def _bytes(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)


def _blur(images: Tensor, amount: float) -> Tensor:
    sigma = amount * min(images.shape[-2:])
    size = 2 * math.ceil(3 * sigma) + 1
    return TF.gaussian_blur(images, [size, size], [sigma, sigma])


CORRUPTIONS: dict[str, tuple[Callable[[Tensor, float, Generator], Tensor], tuple[float, ...]]] = {
    # name:            function,         amount at severity 1, 2, 3, 4, 5
    "gaussian_noise": (gaussian_noise, (0.03, 0.05, 0.075, 0.1, 0.14)),
    "shot_noise": (shot_noise, (60, 25, 12, 6, 3)),
    "salt_and_pepper": (salt_and_pepper, (0.01, 0.03, 0.06, 0.11, 0.18)),
    "gaussian_blur": (gaussian_blur, (0.02, 0.03, 0.04, 0.055, 0.075)),
    "pixelate": (pixelate, (0.8, 0.65, 0.5, 0.4, 0.3)),
    "jpeg": (jpeg, (25, 12, 7, 4, 2)),
    "brightness": (brightness, (1.3, 1.6, 2.0, 2.8, 4.0)),
    "contrast": (contrast, (0.96, 0.92, 0.87, 0.8, 0.7)),
    "posterize": (posterize, (5, 4, 3, 2, 1)),
    "rotation": (rotation, (5, 10, 15, 22, 30)),
    "elastic": (elastic, (0.015, 0.025, 0.035, 0.05, 0.07)),
    "occlusion": (occlusion, (0.2, 0.3, 0.4, 0.5, 0.6)),
}
SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(images: Tensor, kind: str, severity: int, seed: int = 0) -> Tensor:
    """Corrupt images; the same images, kind, severity and seed give the same result.

    Args:
        images: (N, C, H, W), uint8, on the CPU, with one or three channels.
        kind: A key of `CORRUPTIONS`.
        severity: One of `SEVERITIES`, 5 the worst.
        seed: Seed of the random draws, which also depend on the kind and the severity.

    Returns:
        New images of the same shape and type.

    Raises:
        ValueError: The kind or severity does not exist.
        TypeError: The images have another shape or type.
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(CORRUPTIONS)}{did_you_mean(kind, CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity={severity!r}: expected one of {SEVERITIES}")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        expected = "expected (N, 1 or 3, H, W), torch.uint8"
        raise TypeError(f"images: {expected}, got {tuple(images.shape)}, {images.dtype}")
    function, amounts = CORRUPTIONS[kind]
    generator = Generator().manual_seed(zlib.crc32(f"{kind} {severity} {seed}".encode()))
    return function(images, amounts[severity - 1], generator)
