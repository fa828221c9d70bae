"""Datasets by timm's names, after a check of what timm would silently take for something else."""

from pathlib import Path
from typing import Any

from timm.data import ImageDataset, create_dataset

from ..utils.blaming import blaming
from ..utils.messages import short_repr
from .images import CheckedImages, DataError

__all__ = ["DataError", "label_names", "open_dataset", "sample_dir", "unreadable_files"]

TRAIN_SPLITS = ("train", "training")
EVAL_SPLITS = ("val", "valid", "validation", "eval", "evaluation")
_SINGLE_FOLDER = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist")  # torch/ sets with a train and a test part


def sample_dir() -> Path:
    """Return the folder of the packaged Fashion-MNIST sample, for `dataset: torch/fashion_mnist`.

    It holds 6,000 training and 1,000 test images, under the MIT licence.

    Example:
        >>> sorted(path.name for path in sample_dir().rglob("*images*"))
        ['t10k-images-idx3-ubyte', 'train-images-idx3-ubyte']
    """
    return Path(__file__).parent / "sample"


def open_dataset(
    name: str,
    root: str | Path | None,
    split: str,
    *,
    num_classes: int | None = None,
    unreadable: str = "error",
    **kwargs: Any,
) -> Any:
    """`timm.data.create_dataset`, after a check of what it would silently take for something else.

    Args:
        name: "" for a folder of images, "torch/fashion_mnist", "hfds/…", as timm names them.
        root: The data folder.
        split: Name of the part; `train` and `validation` have timm's synonyms.
        num_classes: Number of classes the model has; checked where the dataset knows its own.
        unreadable: How an image that cannot be read is treated, see `CheckedImages`; torchvision's datasets raise their
            own error.
        **kwargs: Further arguments of `create_dataset`.

    Raises:
        DataError: No such folder or split, or the classes differ from `num_classes`.

    Example:
        >>> dataset = open_dataset("torch/fashion_mnist", sample_dir(), "validation", num_classes=10)
        >>> len(dataset), label_names(dataset)[9]
        (1000, 'Ankle boot')
    """
    prefix, _, rest = name.partition("/")
    if prefix in ("hfids", "tfds", "wds"):
        raise DataError(f"dataset={name!r}: a stream without a fixed order; only timm's stock train.py serves it")
    if prefix != "hfds":
        _check_folder(root, split, rest.lower() if prefix == "torch" else "")
    others = "".join(
        f", {key}={short_repr(value)}" for key, value in kwargs.items() if isinstance(value, str) and value
    )
    with blaming(f"dataset={name!r}, data_dir={str(root)!r}, split={split!r}{others}", DataError):
        dataset = create_dataset(name, root=None if root is None else str(root), split=split, **kwargs)
    found = label_names(dataset)
    if num_classes is not None and found and len(found) != num_classes:
        some = ", ".join(found[:5]) + (", …" if len(found) > 5 else "")
        raise DataError(f"num_classes={num_classes}, but {root} has {len(found)} classes ({some})")
    return CheckedImages(dataset, unreadable) if isinstance(dataset, ImageDataset) else dataset


def unreadable_files(dataset: Any) -> list[str]:
    """List the images of a dataset of `open_dataset` that could not be read so far.

    Example:
        >>> unreadable_files(open_dataset("torch/fashion_mnist", sample_dir(), "train"))
        []
    """
    return dataset.unreadable_files() if isinstance(dataset, CheckedImages) else []


def _check_folder(root: str | Path | None, split: str, torch_name: str) -> None:
    if not root:
        raise DataError(
            "data_dir is not set; give --data-dir DIR (`timm-moex sample` prints the packaged Fashion-MNIST's folder)"
        )
    root = Path(root)
    if not root.exists():
        raise DataError(f"data_dir={str(root)!r} does not exist")
    known = TRAIN_SPLITS if split in TRAIN_SPLITS else EVAL_SPLITS if split in EVAL_SPLITS else ()
    if torch_name in _SINGLE_FOLDER and not known:
        raise DataError(f"split={split!r}: torch/{torch_name} has {', '.join(TRAIN_SPLITS + EVAL_SPLITS)}")
    if torch_name and torch_name not in ("folder", "image_folder"):
        return  # torchvision looks for its own files
    if root.is_dir() and not any((root / part).is_dir() for part in (split, *known)):
        found = ", ".join(sorted(child.name for child in root.iterdir() if child.is_dir())[:10])
        raise DataError(f"data_dir={str(root)!r} has no folder {split!r} for this split; found {found or 'no folders'}")


def label_names(dataset: Any) -> list[str]:
    """List the class names in the order of the labels; none where the dataset does not know them.

    Example:
        >>> label_names(open_dataset("torch/fashion_mnist", sample_dir(), "train"))[:3]
        ['T-shirt/top', 'Trouser', 'Pullover']
    """
    mapping = getattr(dataset, "class_to_idx", None) or getattr(getattr(dataset, "reader", None), "class_to_idx", None)
    return [str(name) for name in sorted(mapping, key=mapping.get)] if mapping else []
