"""Test sets with 200 of ImageNet's classes: their columns in a model's 1,000 logits, and their folders."""

import pkgutil
from pathlib import Path

from timm.data import ImageNetInfo

from ..utils.messages import did_you_mean
from .datasets import DataError
from .splits import is_hidden

__all__ = ["SUBSETS", "imagenet_subset", "locate_subset"]

# Name of the subset → timm's list of its synsets
SUBSETS = {"imagenet-a": "_info/imagenet_a_synsets.txt", "imagenet-r": "_info/imagenet_r_synsets.txt"}


def imagenet_subset(name: str) -> dict[str, int]:
    """Map each synset of a subset to its column in the 1,000 logits, in the order of the synsets.

    Args:
        name: A key of `SUBSETS`.

    Raises:
        ValueError: The subset does not exist.

    Example:
        >>> columns = imagenet_subset("imagenet-a")
        >>> len(columns), columns["n01498041"]  # stingray
        (200, 6)
    """
    if name not in SUBSETS:
        raise ValueError(f"--subset {name!r}: expected one of {', '.join(SUBSETS)}{did_you_mean(name, SUBSETS)}")
    column = {synset: i for i, synset in enumerate(ImageNetInfo().label_names())}
    listed = pkgutil.get_data("timm.data", SUBSETS[name])
    assert listed is not None, "timm.data is installed as files"
    return {synset: column[synset] for synset in sorted(listed.decode().split())}


def locate_subset(name: str, data_dir: str | Path | None, split: str) -> tuple[dict[str, int], str]:
    """Find a subset's synset folders before any image is read.

    Args:
        name: A key of `SUBSETS`.
        data_dir: Contains the synset folders, or a folder `split` that contains them.
        split: Name of that folder; it may be missing, because these sets have no splits.

    Returns:
        The subset's columns, see `imagenet_subset`, and the split to open: `split`, or "" if the folder is missing.

    Raises:
        ValueError: The subset does not exist.
        DataError: The data folder does not exist, or contains a folder that is not a synset of the subset.
    """
    columns = imagenet_subset(name)
    if not data_dir or not Path(data_dir).is_dir():
        raise DataError(f"--data-dir {str(data_dir or '')!r}: no such folder")
    found_split = split if any((Path(data_dir) / part).is_dir() for part in (split, "val")) else ""
    found = sorted(
        path.name for path in (Path(data_dir) / found_split).iterdir() if path.is_dir() and not is_hidden(path.name)
    )
    if strangers := [folder for folder in found if folder not in columns]:
        raise DataError(f"--data-dir {str(data_dir)!r}: not synsets of {name}: {', '.join(strangers[:5])}")
    return columns, found_split
