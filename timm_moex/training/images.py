"""Image files that cannot be read: an error by name, or counted, where timm's dataset quietly takes the next image."""

from typing import Any

import torch
from PIL import Image
from timm.data import ImageDataset

from ..utils.messages import one_line

__all__ = ["CheckedImages", "DataError"]


class DataError(ValueError):
    """The data folder, a split of it, its classes or one of its images are not what they should be."""


class CheckedImages(ImageDataset):
    """timm's `ImageDataset`, with a say in what happens to an image that cannot be read.

    Args:
        dataset: timm's, whose files these are.
        unreadable: "error" raises a `DataError` with the file's name. "replace" takes the next image, as timm does, and
            counts. "drop" reads every image once beforehand, leaves out the unreadable ones, and counts.

    Attributes:
        is_unreadable: (N,), bool: what was found to be unreadable so far; workers share it.
    """

    def __init__(self, dataset: ImageDataset, unreadable: str = "error"):
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
            for index in self.kept:
                self._try_to_read(index)
            self.kept = [index for index in self.kept if not self.is_unreadable[index]]
            if not self.kept:
                raise DataError(f"none of the {len(self.reader)} images can be read; the first is {self._name(0)}")

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> tuple:
        first = self.kept[index]
        for position in (*range(first, len(self.reader)), *range(first)):
            sample = self._try_to_read(position)
            if sample is not None:
                return self._transformed(*sample)
        raise DataError(f"none of the {len(self.reader)} images can be read; the first is {self._name(0)}")

    def unreadable_files(self) -> list[str]:
        """Names of the images that were found to be unreadable so far."""
        return [self._name(index) for index in self.is_unreadable.nonzero().flatten().tolist()]

    def _name(self, index: int) -> str:
        return str(self.reader.filename(index, absolute=True))

    def _try_to_read(self, index: int) -> tuple | None:
        """Image (or its bytes), target and features; None if the image is unreadable and that is no error."""
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
            if self.unreadable == "error":
                raise DataError(f"{self._name(index)} cannot be read as an image: {one_line(error)}") from error
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
