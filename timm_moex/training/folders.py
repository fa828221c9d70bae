"""Reader for folders of images, which finds the class of each file and, optionally, its group."""

import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.utils import natural_key
from torchvision.datasets.folder import IMG_EXTENSIONS

from ..utils.messages import did_you_mean
from .images import DataError
from .splits import Split, divide, is_hidden

__all__ = ["ClassError", "FolderReader", "check_classes"]


class ClassError(DataError):
    """The data have classes that the model does not have."""


class FolderReader(ReaderImageFolder):
    """timm's reader of a folder, for CLASS/image or, with `group_folders`, GROUP/CLASS/image.

    The class is the folder that contains the image, and classes have timm's order. Unlike timm's own scan, this one
    skips hidden files and folders, and raises an error if two folders would become the same class.

    The target of a sample is one integer, `class + group * number of classes`, so that class and group pass together
    through timm's dataset, workers, samplers and collation, and through `InMemoryLoader`. `GroupedLoader` separates
    them once a batch is on the device. Without groups the target is the class.

    `classes` are the class names of the training set, in the order of the labels; None uses the folder's own names.
    With a `class_map`, class name → label, images of other classes are ignored. `types` are the suffixes of image files
    (default: torchvision's list, which includes timm's).
    """

    def __init__(
        self,
        split: Split,
        *,
        group_folders: bool = False,
        held_out_group: str | None = None,
        only_group: str | None = None,
        classes: Sequence[str] | None = None,
        class_map: Mapping[str, int] | None = None,
        types: Sequence[str] = (),
    ):
        super(ReaderImageFolder, self).__init__()  # without timm's scan
        self.root, self.ignored = split.folder, Counter[str]()
        suffixes = sorted({suffix.lower() for suffix in types or IMG_EXTENSIONS})
        files = self._scan(suffixes)
        if group_folders:
            # an evaluation folder may lack the held-out group
            needed = {"held_out_group": held_out_group if classes is None else None, "only_group": only_group}
            _check_groups(files, split.folder, needed)
            files = [f for f in files if f.group != held_out_group and only_group in (None, f.group)]
        else:
            _check_leaves(files, split.folder)
        self.class_to_idx = _class_to_idx(files, split.folder, classes, class_map)
        self.groups = _natural({file.group for file in files}) if group_folders else []
        chosen = set(divide([file.path for file in files], split))
        files = [file for file in files if file.path in chosen]
        kept = [file for file in files if file.label in self.class_to_idx]
        if len(kept) < len(files):
            self.ignored["of other classes"] = len(files) - len(kept)
        if not kept:
            ignored = self.describe_ignored() or str(split.folder)
            raise DataError(f"{ignored}: found no images with the suffixes {', '.join(suffixes)} in class folders")
        offset = {name: i * self.width for i, name in enumerate(self.groups)}
        self.samples = [
            (os.path.join(split.folder, file.path), self.class_to_idx[file.label] + offset.get(file.group, 0))
            for file in kept
        ]

    @property
    def width(self) -> int:
        """The number of labels, which is the difference between the targets of one class in consecutive groups."""
        return max(self.class_to_idx.values()) + 1

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        if not stat.S_ISREG(os.stat(self.samples[index][0]).st_mode):  # opening a named pipe would block forever
            raise OSError("not a regular file")
        return super().__getitem__(index)

    def describe_ignored(self) -> str:
        """Return "data/train: 3 files ignored (.txt 2, .gif 1)", or "" if there are none."""
        most = sorted(self.ignored.items(), key=lambda item: (-item[1], item[0]))[:5]
        parts = ", ".join(f"{suffix} {count}" for suffix, count in most)
        total = sum(self.ignored.values())
        return f"{self.root}: {total} file{'s' * (total > 1)} ignored ({parts})" if total else ""

    def _scan(self, types: Sequence[str]) -> list["_File"]:
        """Find the images in timm's order; break ties ("1", "01"), whose order varies in timm, by the text."""
        found = []
        for parent, folders, names in os.walk(self.root, followlinks=True, onerror=_raise):
            folders[:] = [name for name in folders if not is_hidden(name)]
            _check_links(parent, folders)
            where = Path(parent).relative_to(self.root)
            folder, label, group, inside = str(where), where.name, where.parent.name, []
            for name in names:
                if is_hidden(name):
                    continue
                suffix = os.path.splitext(name)[1].lower()
                if suffix in types:
                    inside.append(_File(os.path.join(folder, name), label, group))
                else:
                    self.ignored[suffix or "without a suffix"] += 1
            if inside:
                _check_folder(where, inside[0], self.root)
                found += inside
        return sorted(found, key=lambda file: (natural_key(file.path), file.path))


class _File(NamedTuple):
    """An image: its path inside the folder, the name of its own folder, and the name of the folder above."""

    path: str
    label: str
    group: str


def _raise(error: OSError) -> Any:
    raise DataError(f"{error.filename}: {error.strerror}") from error


def _check_links(parent: str, folders: Sequence[str]) -> None:
    """Reject a link to one of its own parent folders, because following it would never end."""
    for path in (os.path.join(parent, name) for name in folders):
        if os.path.islink(path) and Path(path).resolve() in (*Path(parent).resolve().parents, Path(parent).resolve()):
            raise DataError(f"{path}: this link points to a folder that contains it")


def _check_folder(where: Path, first: _File, root: Path) -> None:
    if not where.name:
        raise DataError(f"{root / first.path}: this image is not in a class folder; move it into one, or remove it")
    try:
        str(where).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{str(root / where)!r}: the name of a class folder must be valid UTF-8") from error


def _natural(names: set[str]) -> list[str]:
    return sorted(names, key=lambda name: (natural_key(name), name))


def _check_leaves(files: Sequence[_File], root: Path) -> None:
    """Reject two class folders with the same name."""
    parents: dict[str, str] = {}
    for file in files:
        folder = os.path.dirname(file.path)
        if (other := parents.setdefault(file.label, folder)) != folder:
            raise DataError(
                f"{root}: the folders {other} and {folder} would both become class {file.label!r}; rename one of "
                "them, or set group_folders: true (--group-folders) if the folders above them are groups"
            )


def _check_groups(files: Sequence[_File], root: Path, needed: Mapping[str, str | None]) -> None:
    """Check that all images have a group, and that the groups named by arguments exist."""
    if alone := next((file for file in files if not file.group), None):
        raise DataError(f"group_folders: {root / alone.path} has no group, because it is not in GROUP/CLASS/")
    groups = _natural({file.group for file in files})
    for key, name in needed.items():
        if name is not None and name not in groups:
            known = (", ".join(groups) or "none") + did_you_mean(name, groups)
            raise DataError(f"{key}: {name!r} is not a group in {root}; its groups are {known}")


def _class_to_idx(
    files: Sequence[_File], root: Path, classes: Sequence[str] | None, class_map: Mapping[str, int] | None
) -> dict[str, int]:
    if class_map:
        if sorted(class_map.values()) != list(range(len(class_map))):
            raise DataError(f"class_map: expected the labels 0 to {len(class_map) - 1}, each once")
        return dict(class_map)
    found = _natural({file.label for file in files})
    if classes is not None:
        check_classes(found, classes, str(root))
    return {name: i for i, name in enumerate(found if classes is None else classes)}


def check_classes(found: Sequence[str], known: Sequence[str], where: str) -> None:
    """Raise a `ClassError` if the data at `where` have classes that `known` lacks; the data may lack some of them."""
    if strangers := [name for name in found if name not in known]:
        missing = [name for name in known if name not in found]
        lacks = f" and lacks {_listed(missing)}" if missing else ""
        raise ClassError(f"{where} has classes that were not in training: {_listed(strangers)}{lacks}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
