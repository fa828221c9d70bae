"""Input images for the picture of an exchange, and the names of a model's classes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset
from torch import Tensor, nn

from ..training.datasets import open_dataset, sample_dir
from ..training.images import convert_image

__all__ = ["class_names", "open_image", "prepare_image", "undo_normalisation"]


def open_image(word: str) -> Image.Image:
    """Open an image file or, given "sample:N", test image N of the packaged Fashion-MNIST sample."""
    prefix, colon, number = word.partition(":")
    if prefix == "sample" and colon:
        dataset = open_dataset("torch/fashion_mnist", sample_dir(), "validation")
        if not number.isdecimal() or int(number) >= len(dataset):
            raise ValueError(f"image {word!r}: the packaged sample has images sample:0 to sample:{len(dataset) - 1}")
        return dataset[int(number)][0]
    if not Path(word).is_file():
        raise FileNotFoundError(f"image {word!r}: no such file; the packaged images are sample:0 to sample:999")
    try:
        with Image.open(word) as image:
            image.load()
            return image
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"image {word!r} cannot be read as an image: {error}") from error


def prepare_image(image: Image.Image, data_config: Mapping[str, Any]) -> Tensor:
    """Apply a model's evaluation transform to an image in any mode, and return (channels, H, W), normalised.

    `data_config` is the result of `timm.data.resolve_data_config` for the model.

    Example:
        >>> config = dict(input_size=(1, 28, 28), mean=(0.5,), std=(0.5,), crop_pct=1.0, interpolation="bilinear")
        >>> prepare_image(open_image("sample:0"), config).shape
        torch.Size([1, 28, 28])
    """
    channels = data_config["input_size"][0]
    if channels not in (1, 3):
        raise ValueError(f"the model expects images with {channels} channels, but pictures have 1 or 3")
    tensor = create_transform(**data_config)(convert_image(image, "RGB" if channels == 3 else "L"))
    assert isinstance(tensor, Tensor)
    return tensor


def undo_normalisation(images: Tensor, data_config: Mapping[str, Any]) -> Tensor:
    """Undo the normalisation of images (B, channels, H, W); return values in [0, 1]."""
    mean, std = (torch.tensor(data_config[key])[:, None, None] for key in ("mean", "std"))
    return (images * std + mean).clamp(0, 1)


def class_names(model: nn.Module) -> list[str]:
    """Return the names of a model's classes: its own, ImageNet's, or else numbers.

    Example:
        >>> import timm
        >>> class_names(timm.create_model("resnet18"))[207]
        'golden retriever'
    """
    count: Any = model.num_classes
    own = (getattr(model, "pretrained_cfg", None) or {}).get("label_names") or ()
    if len(own) == count:
        return [str(name) for name in own]
    if subset := infer_imagenet_subset(model):
        info = ImageNetInfo(subset)
        return [info.index_to_description(i).partition(",")[0] for i in range(count)]
    return [f"class {i}" for i in range(count)]
