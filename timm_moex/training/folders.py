"""Folders of images: the class and the group of each file, and which files are held out for evaluation."""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from timm.data.readers.reader import Reader
from timm.utils import natural_key
from torchvision.datasets.folder import IMG_EXTENSIONS

from .images import DataError

__all__ = ["EVAL_SPLITS", "TRAIN_SPLITS", "ClassError", "FolderReader", "check_classes", "find_split", "is_flat"]

TRAIN_SPLITS = ("train", "training")
EVAL_SPLITS = ("val", "valid", "validation", "eval", "evaluation")
_OTHER_SPLITS = ("test", "testing")
_OF_SYSTEMS = ("@eaDir", "#recycle", "__MACOSX", "lost+found")  # hidden folders whose names do not begin with a dot


class ClassError(DataError):
    """Data have other classes than the model."""


class Split(NamedTuple):
    """A split of a data folder.

    Attributes:
        folder: The folder to scan.
        part: "all" of its images, or only "train" or "val", which divide it by `val_fraction`.
    """

    folder: Path
    part: str = "all"


def is_flat(root: str | Path) -> bool:
    """Whether a folder has class folders (or group folders) and no folder for a split.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "cat").mkdir()
        >>> is_flat(root)
        True
        >>> (root / "test").mkdir()
        >>> is_flat(root)
        False
    """
    root = Path(root)
    splits = (*TRAIN_SPLITS, *EVAL_SPLITS, *_OTHER_SPLITS)
    return bool(_visible_folders(root)) and not any((root / name).is_dir() for name in splits)


def find_split(root: Path, split: str, val_fraction: float = 0.0) -> Split:
    """Find a split: its own folder, or a part of the training folder or of a folder without splits.

    Args:
        root: The data folder.
        split: Name of the split, "train" and "validation" with timm's synonyms; "" for the whole folder.
        val_fraction: Share of the training images that is held out for evaluation; 0 if there is a folder for it.

    Raises:
        DataError: There is no such split, or `val_fraction` is given and there is a folder for evaluation.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "cat").mkdir()
        >>> find_split(root, "validation", val_fraction=0.2).part
        'val'
    """
    what = f"data_dir={str(root)!r}"
    known = TRAIN_SPLITS if split in TRAIN_SPLITS else EVAL_SPLITS if split in EVAL_SPLITS else ()
    folder = _first_folder(root, (split, *known)) if split else root
    if not val_fraction:
        if folder is not None:
            return Split(folder)
        if known and is_flat(root):
            raise DataError(f"{what} has neither a folder train nor val; give val_fraction: 0.2 (--val-fraction 0.2) "
                            "to hold out a fifth of each class for evaluation")  # fmt: skip
        hint = "; val_fraction: 0.2 holds out a part of train" if known == EVAL_SPLITS and _first_folder(root, TRAIN_SPLITS) else ""
        found = ", ".join(_visible_folders(root)[:10]) or "no folders"
        raise DataError(f"{what} has no folder {split!r} for this split; found {found}{hint}")
    if not known:
        raise DataError(f"val_fraction={val_fraction} divides into train and validation, not split={split!r}")
    if there := _first_folder(root, EVAL_SPLITS):
        raise DataError(f"val_fraction={val_fraction}, but {what} has a folder {there.name} for evaluation; leave it out")
    training = _first_folder(root, TRAIN_SPLITS) or (root if is_flat(root) else None)
    if training is None:
        raise DataError(f"{what} has no folder train; found {', '.join(_visible_folders(root)[:10]) or 'no folders'}")
    return Split(training, "train" if known == TRAIN_SPLITS else "val")


def _first_folder(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _visible_folders(root: Path) -> list[str]:
    return sorted(child.name for child in root.iterdir() if child.is_dir() and not _is_hidden(child.name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _OF_SYSTEMS


class FolderReader(Reader):
    """A reader of timm's `ImageDataset` for CLASS/picture or, with groups, GROUP/CLASS/picture.

    The class is the folder that holds the picture, as in timm's own reader, and classes have the same order. Otherwise
    than there, hidden files and folders are skipped, and what would merge two folders into one class is refused.

    A sample has one integer as its target, `class + group * number of classes`. So class and group travel together
    through timm's dataset, workers, samplers and collation, and through `InMemoryLoader`; `GroupedLoader` takes them
    apart when a batch is on the device. Without groups the target is the class.

    Args:
        split: The folder, and the part of it.
        val_fraction: Share of each class (of each group) that the part "val" has. The images are drawn by the hashes
            of their paths inside the folder: the same for every seed, process, machine and order of the files.
        group_folders: Whether the folder above the class is the group.
        held_out_group: Name of a group to leave out.
        only_group: Name of the only group to read.
        classes: Class names in the order of their labels, those of the training set; None for the folder's own.
        class_map: Class name → label; images of other classes are left out.
        types: Suffixes of image files; by default torchvision's, which include timm's.

    Raises:
        DataError: A picture has no class or no group, two class folders have one name, a name is not UTF-8, there is
            no such group, `classes` lacks one of the folder's, or no image is left.

    Attributes:
        samples: Path and target of each image.
        class_to_idx: Class name → label.
        groups: Names of the groups in the order of their numbers; empty without `group_folders`.
        ignored: Suffix → number of files that are no images, and "of other classes" → those left out by `class_map`.
    """

    def __init__(
        self,
        split: Split,
        *,
        val_fraction: float = 0.0,
        group_folders: bool = False,
        held_out_group: str | None = None,
        only_group: str | None = None,
        classes: Sequence[str] | None = None,
        class_map: Mapping[str, int] | None = None,
        types: Sequence[str] = (),
    ):
        super().__init__()
        self.root, self.ignored = split.folder, Counter[str]()
        files = self._scan({suffix.lower() for suffix in types or IMG_EXTENSIONS})
        if group_folders:
            files = _of_groups(files, split.folder, held_out_group, only_group)
        else:
            _check_leaves(files, split.folder)
        self.class_to_idx = _class_to_idx(files, split.folder, classes, class_map)
        self.groups = _natural({file.group for file in files}) if group_folders else []
        files = _part_of(files, split.part, val_fraction)
        kept = [file for file in files if file.label in self.class_to_idx]
        if len(kept) < len(files):
            self.ignored["of other classes"] = len(files) - len(kept)
        if not kept:
            raise DataError(f"{split.folder} has no images in class folders{self._describe_ignored()}")
        number = {name: i for i, name in enumerate(self.groups)}
        self.samples = [
            (str(split.folder / file.path), self.class_to_idx[file.label] + self.width * number.get(file.group, 0))
            for file in kept
        ]

    @property
    def width(self) -> int:
        """The number of labels: by how much the targets of one class in two neighbouring groups differ."""
        return max(self.class_to_idx.values()) + 1

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        path, target = self.samples[index]
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a named pipe would wait for ever
            raise OSError("not a regular file")
        return open(path, "rb"), target

    def __len__(self) -> int:
        return len(self.samples)

    def describe_ignored(self) -> str:
        """Return "3 files ignored (.txt 2, .gif 1)", or "" if there are none."""
        parts = ", ".join(f"{suffix} {count}" for suffix, count in self.ignored.most_common(5))
        total = sum(self.ignored.values())
        return f"{total} file{'s' * (total > 1)} ignored ({parts})" if total else ""

    def _describe_ignored(self) -> str:
        described = self.describe_ignored()
        return f"; {described}" if described else ""

    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        path = self.samples[index][0]
        return os.path.basename(path) if basename else path if absolute else os.path.relpath(path, self.root)

    def _scan(self, types: set[str]) -> list["_File"]:
        """Find the images, in timm's order; on a tie ("1", "01"), where timm's varies, in that of the text."""
        found = []
        for parent, folders, names in os.walk(self.root, followlinks=True, onerror=_raise):
            folders[:] = [name for name in folders if not _is_hidden(name)]
            where = Path(parent).relative_to(self.root)
            for name in names:
                suffix = os.path.splitext(name)[1].lower()
                if not _is_hidden(name) and suffix in types:
                    found.append(_File(where / name))
                elif not _is_hidden(name):
                    self.ignored[suffix or "without a suffix"] += 1
        for file in found:
            _check_names(file, self.root)
        return sorted(found, key=lambda file: (natural_key(str(self.root / file.path)), str(file.path)))


class _File(NamedTuple):
    """An image: its path inside the folder, and what the path says."""

    path: Path

    @property
    def label(self) -> str:
        return self.path.parent.name

    @property
    def group(self) -> str:
        return self.path.parent.parent.name


def _raise(error: OSError) -> Any:
    raise DataError(f"{error.filename}: {error.strerror}") from error


def _check_names(file: _File, root: Path) -> None:
    if not file.label:
        raise DataError(f"{root / file.path}: this image is in no class folder; move it into one, or away")
    try:
        str(file.path.parent).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{str(root / file.path.parent)!r}: the name of a class folder must be UTF-8") from error


def _natural(names: set[str]) -> list[str]:
    return sorted(names, key=lambda name: (natural_key(name), name))


def _check_leaves(files: Sequence[_File], root: Path) -> None:
    """Refuse two class folders of one name."""
    parents: dict[str, Path] = {}
    for file in files:
        if (other := parents.setdefault(file.label, file.path.parent)) != file.path.parent:
            raise DataError(
                f"{root}: the folders {other} and {file.path.parent} would be one class, {file.label!r}; rename one of "
                "them, or give group_folders: true if the folders above are groups (GROUP/CLASS/picture)"
            )


def _of_groups(files: Sequence[_File], root: Path, held_out: str | None, only: str | None) -> list[_File]:
    """The images of all groups but one, or of one."""
    if alone := next((file for file in files if not file.group), None):
        raise DataError(f"group_folders: {root / alone.path} is not in GROUP/CLASS/, it has no group")
    groups = _natural({file.group for file in files})
    for key, name in (("held_out_group", held_out), ("group", only)):
        if name is not None and name not in groups:
            raise DataError(f"{key}: {name!r} is no group of {root}; its groups are {', '.join(groups) or 'none'}")
    return [file for file in files if file.group != held_out and only in (None, file.group)]


def _part_of(files: Sequence[_File], part: str, fraction: float) -> list[_File]:
    """One part of a folder that is divided by `fraction`, in each class of each group; of two images one is in each."""
    if part == "all":
        return list(files)
    strata: dict[Path, list[_File]] = {}
    for file in files:
        strata.setdefault(file.path.parent, []).append(file)
    held_out: set[_File] = set()
    for stratum in strata.values():
        count = min(max(1, int(fraction * len(stratum) + 0.5)), len(stratum) - 1)
        held_out.update(sorted(stratum, key=_draw)[:count])
    return [file for file in files if (file in held_out) == (part == "val")]


def _draw(file: _File) -> bytes:
    return hashlib.sha256(file.path.as_posix().encode("utf-8", "surrogateescape")).digest()


def _class_to_idx(
    files: Sequence[_File], root: Path, classes: Sequence[str] | None, class_map: Mapping[str, int] | None
) -> dict[str, int]:
    if class_map:
        return dict(class_map)
    found = _natural({file.label for file in files})
    if classes is not None:
        check_classes(found, classes, str(root))
    return {name: i for i, name in enumerate(found if classes is None else classes)}


def check_classes(found: Sequence[str], known: Sequence[str], where: str) -> None:
    """Check that a model knows the classes of its data; it may know more.

    Args:
        found: Class names of the data.
        known: Class names of the model or its training set.
        where: What has the classes `found`.

    Raises:
        ClassError: The names differ.

    Example:
        >>> check_classes(["cat"], ["cat", "dog"], "val")
    """
    if strangers := [name for name in found if name not in known]:
        missing = [name for name in known if name not in found]
        lacks = f" and lacks {_listed(missing)}" if missing else ""
        raise ClassError(f"{where} has classes that training did not have: {_listed(strangers)}{lacks}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
