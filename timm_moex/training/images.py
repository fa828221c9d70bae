"""Image files that cannot be read raise an error by name, or are counted; timm's dataset takes the next in silence."""

from typing import Any

import torch
from PIL import Image
from timm.data import ImageDataset

from ..utils.messages import one_line

__all__ = ["UNREADABLE", "CheckedImages", "DataError"]

UNREADABLE = ("error", "replace", "drop")


class DataError(ValueError):
    """The data folder, one of its splits, its classes or one of its images are not as expected."""


class CheckedImages(ImageDataset):
    """timm's `ImageDataset`, with a choice of how to treat an image that cannot be read.

    Args:
        dataset: timm's, whose files these are.
        unreadable: "error" raises a `DataError` with the file's name. "replace" takes the next image, as timm does, and
            counts. "drop" reads every image once beforehand, leaves out the unreadable ones, and counts.

    Raises:
        ValueError: `unreadable` is none of these.

    Attributes:
        is_unreadable: (N,), bool: the images found to be unreadable so far; workers share the tensor.
    """

    def __init__(self, dataset: ImageDataset, unreadable: str = "error"):
        if unreadable not in UNREADABLE:
            raise ValueError(f"unreadable={unreadable!r}: expected one of {', '.join(UNREADABLE)}")
        super().__init__(
            root=None,
            reader=dataset.reader,
            load_bytes=dataset.load_bytes,
            input_img_mode=dataset.input_img_mode,
            transform=dataset.transform,
            target_transform=dataset.target_transform,
            additional_features=dataset.additional_features,
        )
        self.unreadable = unreadable
        self.is_unreadable = torch.zeros(len(self.reader), dtype=torch.bool).share_memory_()
        self.kept = list(range(len(self.reader)))
        if unreadable == "drop":
            self.kept = [index for index in self.kept if self._sample_or_none(index) is not None]
            if not self.kept:
                raise self._none_readable()

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> tuple:
        if self.unreadable != "replace":  # of "drop", too: what could be read before is an error now
            return self._transformed(*self._sample(self.kept[index]))
        if index >= len(self):
            raise IndexError(f"image {index} of {len(self)}")  # ends a for loop over the dataset
        for position in (*range(index, len(self)), *range(index)):
            sample = self._sample_or_none(position)
            if sample is not None:
                return self._transformed(*sample)
        raise self._none_readable()

    def unreadable_files(self) -> list[str]:
        """Names of the images that were found to be unreadable so far."""
        return [self._name(index) for index in self.is_unreadable.nonzero().flatten().tolist()]

    def _name(self, index: int) -> str:
        return str(self.reader.filename(index, absolute=True))

    def _none_readable(self) -> DataError:
        return DataError(f"none of the {len(self.reader)} images can be read; the first is {self._name(0)}")

    def _sample(self, index: int) -> tuple:
        """Image (or its bytes), target and features."""
        try:
            image, *rest = self.reader[index]
            if self.load_bytes:
                return image.read(), *rest
            image = Image.open(image)
            if self.input_img_mode:
                image = image.convert(self.input_img_mode)
            image.load()  # decodes it: only then does a truncated file show
            return image, *rest
        except Exception as error:  # PIL raises many kinds: OSError, SyntaxError, ValueError, its own
            raise DataError(f"{self._name(index)} cannot be read as an image: {one_line(error)}") from error

    def _sample_or_none(self, index: int) -> tuple | None:
        """The sample; None where its image is unreadable, which is written down."""
        try:
            return self._sample(index)
        except DataError:
            self.is_unreadable[index] = True
            return None

    def _transformed(self, image: Any, target: Any, *features: Any) -> tuple:
        if self.transform is not None:
            image = self.transform(image)
        if target is None:
            target = -1
        elif self.target_transform is not None:
            target = self.target_transform(target)
        return (image, target) if self.additional_features is None else (image, target, *features)
