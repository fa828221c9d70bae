"""Read image files with the right number of channels, and handle files that cannot be read.

Unreadable files raise an error with their name, or are counted; timm's dataset silently uses the next image.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import ImageDataset

from ..utils.messages import did_you_mean, one_line

__all__ = ["UNREADABLE", "CheckedImages", "DataError", "check_image_mode", "convert_image"]

UNREADABLE = ("error", "replace", "drop")
_MODE_OF = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_MODES = {"L": 1, "LA": 2, "RGB": 3, "YCbCr": 3, "LAB": 3, "HSV": 3, "RGBA": 4, "CMYK": 4}  # only 8-bit modes


class DataError(ValueError):
    """The data folder, one of its splits, its classes or one of its images is not as expected."""


def check_image_mode(channels: int, mode: str | None = None) -> str:
    """Return the Pillow mode for a model with this number of channels; `mode` is the requested one, if any."""
    if mode is None:
        if channels not in _MODE_OF:
            raise DataError(f"the model needs images of {channels} channels, but image files have 1 to 4 channels")
        return _MODE_OF[channels]
    if mode not in _MODES:
        raise DataError(
            f"input_img_mode: {mode!r}: expected one of {', '.join(_MODES)}{did_you_mean(mode, _MODES, 0.4)}"
        )
    if _MODES[mode] != channels:
        raise DataError(f"input_img_mode: {mode!r} has {_MODES[mode]} channels, but the model needs {channels}")
    return mode


def convert_image(image: Image.Image, mode: str) -> Image.Image:
    """Call `image.convert(mode)`, but scale 16-bit grey values to 8 bits, which Pillow would clip at 255."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # older Pillow: I for 16 bits
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"the image has 32-bit pixels, mode {image.mode}; convert it to 8 or 16 bits")
    return image.convert(mode)


class CheckedImages(ImageDataset):
    """timm's `ImageDataset`, with a choice of how to handle images that cannot be read.

    Args:
        dataset: timm's dataset of the files.
        unreadable: "error" raises a `DataError` with the file's name. "replace" uses the next image, as timm does, and
            counts it. "drop" reads every image once beforehand, skips the unreadable ones, and counts them.
    """

    def __init__(self, dataset: ImageDataset, unreadable: str = "error"):
        if unreadable not in UNREADABLE:
            raise ValueError(f"unreadable={unreadable!r}: expected one of {', '.join(UNREADABLE)}")
        transforms = dict(transform=dataset.transform, target_transform=dataset.target_transform)
        super().__init__(root=None, reader=dataset.reader, input_img_mode=dataset.input_img_mode, **transforms)
        self.unreadable = unreadable
        # (N,), bool: the images found to be unreadable so far; shared between workers
        self.is_unreadable = torch.zeros(len(self.reader), dtype=torch.bool).share_memory_()
        self.kept = list(range(len(self.reader)))
        if unreadable == "drop":
            self.kept = [index for index in self.kept if self._sample_or_none(index) is not None]
            if not self.kept:
                raise self._none_readable()

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if self.unreadable != "replace":  # includes "drop": if an image that was readable fails now, raise
            return self._transformed(*self._sample(self.kept[index]))
        if index >= len(self):
            raise IndexError(f"image {index} of {len(self)}")  # ends a for loop over the dataset
        for position in (*range(index, len(self)), *range(index)):
            sample = self._sample_or_none(position)
            if sample is not None:
                return self._transformed(*sample)
        raise self._none_readable()

    def unreadable_files(self) -> list[str]:
        """List the images that could not be read so far."""
        return [self._name(index) for index in self.is_unreadable.nonzero().flatten().tolist()]

    def _name(self, index: int) -> str:
        return str(self.reader.filename(index, absolute=True))

    def _none_readable(self) -> DataError:
        return DataError(f"none of the {len(self.reader)} images can be read; the first is {self._name(0)}")

    def _sample(self, index: int) -> tuple[Image.Image, int]:
        try:
            file, target = self.reader[index]
            image: Image.Image = Image.open(file)
            if self.input_img_mode:
                image = convert_image(image, self.input_img_mode)
            image.load()  # decode it now, because only decoding detects a truncated file
            return image, target
        except Exception as error:  # PIL raises many types: OSError, SyntaxError, ValueError, its own
            raise DataError(f"{self._name(index)} cannot be read as an image: {one_line(error)}") from error

    def _sample_or_none(self, index: int) -> tuple[Image.Image, int] | None:
        """Read a sample, or record its image as unreadable and return None."""
        try:
            return self._sample(index)
        except DataError:
            self.is_unreadable[index] = True
            return None

    def _transformed(self, image: Any, target: int) -> tuple[Any, int]:
        image = image if self.transform is None else self.transform(image)
        return image, target if self.target_transform is None else self.target_transform(target)
