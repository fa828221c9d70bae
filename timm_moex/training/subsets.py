"""Test sets of 200 of ImageNet's classes: which of a model's 1,000 logits they use, and where their images lie."""

import pkgutil
from pathlib import Path

from timm.data import ImageNetInfo

from ..utils.messages import nearest
from .datasets import DataError
from .splits import is_hidden

__all__ = ["SUBSETS", "imagenet_subset", "locate_subset"]

# Name of the set: where timm lists its synsets
SUBSETS = {"imagenet-a": "_info/imagenet_a_synsets.txt", "imagenet-r": "_info/imagenet_r_synsets.txt"}


def imagenet_subset(name: str) -> dict[str, int]:
    """Map each synset of a subset to its column among the 1,000 logits, in the order of the synsets.

    Args:
        name: A key of `SUBSETS`.

    Raises:
        ValueError: There is no such subset.

    Example:
        >>> columns = imagenet_subset("imagenet-a")
        >>> len(columns), columns["n01498041"]  # stingray
        (200, 6)
    """
    if name not in SUBSETS:
        raise ValueError(f"--subset {name!r}: expected one of {', '.join(SUBSETS)}{nearest(name, SUBSETS)}")
    column = {synset: i for i, synset in enumerate(ImageNetInfo().label_names())}
    listed = pkgutil.get_data("timm.data", SUBSETS[name])
    assert listed is not None, "timm.data has its files on disk"
    return {synset: column[synset] for synset in sorted(listed.decode().split())}


def locate_subset(name: str, data_dir: str | Path | None, split: str) -> tuple[dict[str, int], str]:
    """Look at a subset's folder of synsets before any image is read.

    Args:
        name: A key of `SUBSETS`.
        data_dir: Holds the synset folders, or a folder `split` with them.
        split: Name of that folder; it may be missing, for these sets come without splits.

    Returns:
        The subset's columns, see `imagenet_subset`, and the split to open: `split`, or "" where there is none.

    Raises:
        ValueError: There is no such subset.
        DataError: There is no such folder, or it holds a folder that is no synset of the subset.
    """
    columns = imagenet_subset(name)
    if not data_dir or not Path(data_dir).is_dir():
        raise DataError(f"--data-dir {str(data_dir or '')!r}: no such folder")
    found_split = split if any((Path(data_dir) / part).is_dir() for part in (split, "val")) else ""
    found = sorted(
        path.name for path in (Path(data_dir) / found_split).iterdir() if path.is_dir() and not is_hidden(path.name)
    )
    if strangers := [folder for folder in found if folder not in columns]:
        raise DataError(f"--data-dir {str(data_dir)!r}: {', '.join(strangers[:5])} is no synset of {name}")
    return columns, found_split
