"""Splits of a folder of images: one folder per split, or a held-out part of the training folder."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .images import DataError

__all__ = ["EVAL_SPLITS", "TRAIN_SPLITS", "Split", "divide", "find_split", "is_flat", "is_hidden"]

TRAIN_SPLITS = ("train", "training")
EVAL_SPLITS = ("val", "valid", "validation", "eval", "evaluation")
_OTHER_SPLITS = ("test", "testing")
_OF_SYSTEMS = ("@eaDir", "#recycle", "__MACOSX", "lost+found")  # system folders whose names do not begin with a dot


class Split(NamedTuple):
    """A split of a data folder: all images in `folder`, or the part "train" or "val" of each class folder."""

    folder: Path
    part: str = "all"
    val_fraction: float = 0.0


def is_flat(root: str | Path) -> bool:
    """Return whether a folder has class folders (or group folders) and no split folders."""
    root = Path(root)
    return bool(_folders(root)) and not _first_folder(root, TRAIN_SPLITS + EVAL_SPLITS + _OTHER_SPLITS)


def is_hidden(name: str) -> bool:
    """Return whether a name belongs to a file or folder of the operating system, an editor or version control."""
    return name.startswith(".") or name in _OF_SYSTEMS


def find_split(root: Path, split: str, val_fraction: float = 0.0) -> Split:
    """Find a split ("": the whole folder): its own folder, or a part of the training folder or of a flat folder."""
    known = TRAIN_SPLITS if split in TRAIN_SPLITS else EVAL_SPLITS if split in EVAL_SPLITS else ()
    if val_fraction:
        return _find_part(root, split, known, val_fraction)
    folder = _first_folder(root, (split, *known)) if split else root
    if folder is None:
        raise DataError(f"data_dir={str(root)!r} has {_explain_missing(root, split, known)}")
    return Split(folder)


def _find_part(root: Path, split: str, known: Sequence[str], val_fraction: float) -> Split:
    given = f"val_fraction={val_fraction}"
    if not known:
        raise DataError(f"{given} splits the data into train and validation; split={split!r} is neither")
    if there := _first_folder(root, EVAL_SPLITS):
        raise DataError(
            f"{given}, but data_dir={str(root)!r} has an evaluation folder, {there.name}; leave out val_fraction"
        )
    training = _first_folder(root, TRAIN_SPLITS) or (root if is_flat(root) else None)
    if training is None:
        raise DataError(f"data_dir={str(root)!r} has {_explain_missing(root, 'train', TRAIN_SPLITS)}")
    return Split(training, "train" if known == TRAIN_SPLITS else "val", val_fraction)


def _explain_missing(root: Path, split: str, known: Sequence[str]) -> str:
    words = f"no folder {split!r} for this split; found {', '.join(_folders(root)[:10]) or 'no folders'}"
    if known and is_flat(root):
        return f"{words}. If these are classes, set val_fraction: 0.2 (--val-fraction 0.2) to hold out a fifth of each"
    may_divide = known == EVAL_SPLITS and _first_folder(root, TRAIN_SPLITS)
    return words + ("; set val_fraction: 0.2 to hold out a part of train" if may_divide else "")


def _first_folder(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _folders(root: Path) -> list[str]:
    return sorted(child.name for child in root.iterdir() if child.is_dir() and not is_hidden(child.name))


def divide(paths: Sequence[str], split: Split) -> list[str]:
    """Select the images that belong to a split.

    Each class folder (of each group) is divided separately; if it has two images, each part gets one. The images with
    the smallest path hashes are held out. The parts are therefore the same for every seed, process and machine, and do
    not depend on the order of the files or on other class folders.
    """
    if split.part == "all":
        return list(paths)
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault(os.path.dirname(path), []).append(path)
    held_out: set[str] = set()
    for inside in folders.values():
        count = min(max(1, int(split.val_fraction * len(inside) + 0.5)), len(inside) - 1)
        held_out.update(sorted(inside, key=_hash)[:count])
    return [path for path in paths if (path in held_out) == (split.part == "val")]


def _hash(path: str) -> bytes:
    return hashlib.sha256(path.replace(os.sep, "/").encode("utf-8", "surrogateescape")).digest()
