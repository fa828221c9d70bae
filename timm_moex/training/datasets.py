"""Open datasets by timm's names, and raise an error if timm would silently open something else."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.data import ImageDataset, create_dataset
from timm.data.readers.class_map import load_class_map

from ..utils.messages import short_repr
from ..utils.reraise import reraise_as
from .folders import FolderReader, check_classes
from .images import CheckedImages, DataError, check_image_mode
from .splits import EVAL_SPLITS, TRAIN_SPLITS, find_split

__all__ = ["DataError", "group_names", "ignored_files", "label_names", "open_dataset", "open_split", "sample_dir"]
__all__ += ["unreadable_files"]

_SINGLE_FOLDER = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist")  # torch/ datasets with two parts


def sample_dir() -> Path:
    """Return the folder of the packaged Fashion-MNIST sample, for `dataset: torch/fashion_mnist`.

    It contains 6,000 training and 1,000 test images, under the MIT licence.

    Example:
        >>> sorted(path.name for path in sample_dir().rglob("*images*"))
        ['t10k-images-idx3-ubyte', 'train-images-idx3-ubyte']
    """
    return Path(__file__).parent / "sample"


def open_split(args: argparse.Namespace, split: str, **options: Any) -> Any:
    """Open a split of a recipe's data with `open_dataset`; `options` take precedence over the recipe."""
    keys = ("class_map", "input_key", "target_key", "val_fraction", "group_folders", "held_out_group")
    of_recipe = {key: getattr(args, key) for key in keys} | {"download": args.dataset_download}
    return open_dataset(args.dataset, args.data_dir, split, **of_recipe | options)


def open_dataset(
    name: str,
    root: str | Path | None,
    split: str,
    *,
    num_classes: int | None = None,
    channels: int | None = None,
    unreadable: str = "error",
    val_fraction: float = 0.0,
    group_folders: bool = False,
    held_out_group: str | None = None,
    only_group: str | None = None,
    classes: Sequence[str] | None = None,
    **kwargs: Any,
) -> Any:
    """Call `timm.data.create_dataset`, but raise an error for input that timm would silently misread.

    Args:
        name: "" for a folder of images, which `FolderReader` reads, or timm's name: "torch/fashion_mnist", "hfds/…".
        root: The data folder.
        split: Name of the split; timm's synonyms of `train` and `validation` are accepted. "" reads the whole folder.
        num_classes: Number of classes of the model; checked if the dataset has class names.
        channels: Number of channels of the model's input, see `check_image_mode`; torchvision's datasets ignore it.
        unreadable: See `CheckedImages`; torchvision's datasets raise their own error.
        val_fraction: Share of the training images that makes up the split `validation`; only for a folder without one.
        group_folders: Whether the folder has GROUP/CLASS/image. The targets then encode class and group.
        held_out_group: A group to leave out.
        only_group: The only group to read, such as the group that training held out.
        classes: Class names of the training set, in the order of the labels; the data may lack some of them. None uses
            the data's own names.
        **kwargs: Further arguments of `create_dataset`.
    """
    prefix, _, rest = name.partition("/")
    if prefix in ("hfids", "tfds", "wds"):
        raise DataError(f"dataset={name!r} is a stream without a fixed order, which only timm's train.py supports")
    if prefix != "hfds":
        _check_folder(root, split, rest.lower() if prefix == "torch" else "")
    if channels is not None and prefix != "torch":  # torchvision's datasets have a fixed mode
        kwargs["input_img_mode"] = check_image_mode(channels, kwargs.get("input_img_mode"))
    of_folder: dict[str, Any] = dict(group_folders=group_folders, held_out_group=held_out_group, only_group=only_group)
    if not group_folders and (given := [f"{key}: {value!r}" for key, value in of_folder.items() if value]):
        raise DataError(f"{given[0]} needs group_folders: true")
    of_folder = dict(val_fraction=val_fraction) | of_folder
    is_folder = prefix not in ("torch", "hfds") and root is not None and Path(root).is_dir()
    if not is_folder and (given := [f"{key}: {short_repr(value)}" for key, value in of_folder.items() if value]):
        raise DataError(f"dataset={name!r}, data_dir={str(root)!r}: only a folder of images supports {given[0]}")
    others = "".join(f", {key}={short_repr(text)}" for key, text in kwargs.items() if isinstance(text, str) and text)
    with reraise_as(DataError, f"dataset={name!r}, data_dir={str(root)!r}, split={split!r}{others}"):
        if is_folder:
            dataset = _open_folder(Path(str(root)), split, classes=classes, **of_folder, **kwargs)
        else:
            dataset = create_dataset(name, root=None if root is None else str(root), split=split, **kwargs)
    dataset = CheckedImages(dataset, unreadable) if isinstance(dataset, ImageDataset) else dataset
    _check_labels(dataset, name, root)
    found = label_names(dataset)
    if classes is not None and found:
        if not isinstance(getattr(dataset, "reader", None), FolderReader):  # which already has the order of `classes`
            check_classes(found, classes, f"{name} in {root}")
            dataset.target_transform = [classes.index(label) for label in found].__getitem__
    elif num_classes is not None and found and len(found) != num_classes:
        some = ", ".join(found[:5]) + (", …" if len(found) > 5 else "")
        raise DataError(f"num_classes={num_classes}, but {root} has {len(found)} classes ({some})")
    return dataset


def _open_folder(
    root: Path,
    split: str,
    *,
    val_fraction: float,
    class_map: str | Mapping[str, int] = "",
    input_key: str | None = None,
    target_key: str | None = None,
    input_img_mode: str = "RGB",
    download: bool = False,  # ignored for a folder, as in timm's create_dataset
    **reading: Any,
) -> ImageDataset:
    """Open timm's dataset for a folder, with our reader."""
    if target_key:
        raise ValueError(f"target_key: {target_key!r} has no effect on a folder, whose classes are its subfolders")
    found = find_split(root, split, val_fraction)
    mapping = _read_class_map(class_map, (found.folder, root)) if class_map else None
    types = input_key.split(";") if input_key else ()
    reader = FolderReader(found, class_map=mapping, types=types, **reading)
    return ImageDataset(str(found.folder), reader=reader, input_img_mode=input_img_mode)


def _read_class_map(given: str | Mapping[str, int], folders: Sequence[Path]) -> dict[str, int]:
    """Read a class map as timm does, but skip a byte order mark and empty lines, and reject duplicate names."""
    if isinstance(given, Mapping):
        return dict(given)
    path = next((path for path in (Path(given), *(folder / given for folder in folders)) if path.is_file()), None)
    if path is None:
        raise DataError(f"class_map: {given!r}: no such file, neither here nor in {folders[0]}")
    if path.suffix.lower() != ".txt":
        return load_class_map(str(path))
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"class_map: {given!r} lists {twice[0]!r} twice")
    if not names:
        raise DataError(f"class_map: {given!r} lists no classes")
    return {name: i for i, name in enumerate(names)}


def _check_labels(dataset: Any, name: str, root: Any) -> None:
    """Reject torchvision labels if their number is wrong or one is out of range; torchvision does not check."""
    labels = getattr(dataset, "targets", None)
    if labels is None or not len(labels):
        return
    classes, labels = len(label_names(dataset)), torch.as_tensor(labels)
    what = f"dataset={name!r} in {str(root)!r}"
    if len(labels) != len(dataset):
        raise DataError(f"{what} has {len(labels)} labels for {len(dataset)} images")
    if classes and (wrong := labels[(labels < 0) | (labels >= classes)].tolist()):
        raise DataError(f"{what} has the label {wrong[0]}, but its {classes} classes are numbered 0 to {classes - 1}")


def _check_folder(root: str | Path | None, split: str, torch_name: str) -> None:
    if not root:
        raise DataError(
            "data_dir is not set; use --data-dir DIR (`timm-moex sample` prints the folder of the packaged sample)"
        )
    if not Path(root).exists():
        raise DataError(f"data_dir={str(root)!r} does not exist")
    if torch_name in _SINGLE_FOLDER and split not in TRAIN_SPLITS + EVAL_SPLITS:
        raise DataError(f"split={split!r}: torch/{torch_name} supports {', '.join(TRAIN_SPLITS + EVAL_SPLITS)}")
    if torch_name in ("folder", "image_folder") and Path(root).is_dir():  # other sets of torchvision find their files
        find_split(Path(root), split)


def label_names(dataset: Any) -> list[str]:
    """List the class names in the order of the labels; empty if the dataset has no class names."""
    reader = getattr(dataset, "reader", None)
    mapping = getattr(dataset, "class_to_idx", None) or getattr(reader, "class_to_idx", None)
    mapping = mapping or getattr(reader, "class_name_to_idx", None)  # for a tar file
    return [str(name) for name in sorted(mapping, key=mapping.get)] if mapping else []


def group_names(dataset: Any) -> list[str]:
    """List the names of the groups in the order of their numbers; empty without `group_folders`."""
    return list(getattr(getattr(dataset, "reader", None), "groups", ()))


def ignored_files(dataset: Any) -> str:
    """Summarise which files of a folder were ignored, as "train: 3 files ignored (.gif 3)"; "" if there are none."""
    reader = getattr(dataset, "reader", None)
    return reader.describe_ignored() if isinstance(reader, FolderReader) else ""


def unreadable_files(dataset: Any) -> list[str]:
    """List the images of a dataset that could not be read so far."""
    return dataset.unreadable_files() if isinstance(dataset, CheckedImages) else []
