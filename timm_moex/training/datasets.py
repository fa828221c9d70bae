"""Images for the built-in trainer: timm's datasets and loaders, as in train.py, or a small set kept on the device."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import create_dataset, create_loader
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["DataError", "InMemoryLoader", "create_loaders", "label_names", "open_dataset", "sample_dir"]

TRAIN_SPLITS = ("train", "training")
EVAL_SPLITS = ("val", "valid", "validation", "eval", "evaluation")
_SINGLE_FOLDER = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist")  # torch/ sets with a train and a test part


class DataError(ValueError):
    """The data folder, a split of it, or its classes are not what the recipe says."""


def sample_dir() -> Path:
    """Folder of the packaged Fashion-MNIST sample, for `dataset: torch/fashion_mnist`: 6,000 + 1,000 images, MIT."""
    return Path(__file__).parent / "sample"


def open_dataset(
    name: str, root: str | Path | None, split: str, *, num_classes: int | None = None, **kwargs: Any
) -> Dataset:
    """`timm.data.create_dataset`, after a look at what it would silently take for something else.

    Args:
        name: "" for a folder of images, "torch/fashion_mnist", "hfds/…", as timm names them.
        root: The data folder.
        split: Name of the part; `train` and `validation` have timm's synonyms.
        num_classes: Number of classes the model has; checked where the dataset knows its own.
        **kwargs: Further arguments of `create_dataset`.

    Raises:
        DataError: No such folder or split, or the classes differ from `num_classes`.
    """
    prefix, _, rest = name.partition("/")
    if prefix in ("hfids", "tfds", "wds"):
        raise DataError(f"dataset={name!r}: a stream without a fixed order; only timm's stock train.py serves it")
    if prefix != "hfds":
        _check_folder(root, split, rest.lower() if prefix == "torch" else "")
    try:
        dataset = create_dataset(name, root=None if root is None else str(root), split=split, **kwargs)
    except (RuntimeError, FileNotFoundError, AssertionError) as error:
        raise DataError(f"dataset={name!r}, data_dir={str(root)!r}, split={split!r}: {error}") from error
    found = label_names(dataset)
    if num_classes is not None and found and len(found) != num_classes:
        some = ", ".join(found[:5]) + (", …" if len(found) > 5 else "")
        raise DataError(f"num_classes={num_classes}, but {root} has {len(found)} classes ({some})")
    return dataset


def _check_folder(root: str | Path | None, split: str, torch_name: str) -> None:
    if not root:
        raise DataError(
            "data_dir is not set; give --data-dir DIR (`timm-moex sample` says where the packaged Fashion-MNIST lies)"
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


def label_names(dataset: Dataset) -> list[str]:
    """Class names in the order of the labels; empty where the dataset does not know them."""
    mapping = getattr(dataset, "class_to_idx", None) or getattr(getattr(dataset, "reader", None), "class_to_idx", None)
    return [str(name) for name in sorted(mapping, key=mapping.get)] if mapping else []


def create_loaders(
    args: argparse.Namespace, data_config: Mapping[str, Any], device: torch.device, dtype: torch.dtype, pad: int | None
) -> tuple[Any, Any]:
    """Training and evaluation loader; both yield images (B, C, H, W), normalised, and labels (B,), on `device`.

    Args:
        args: `Recipe.arguments()`.
        data_config: What `timm.data.resolve_data_config` says for the model.
        device: Where the images are to be.
        dtype: Their type.
        pad: None for timm's loader; else the whole set is kept on `device`, see `InMemoryLoader`.

    Raises:
        DataError: See `open_dataset`; fewer training images than `batch_size`; `pad` with augmentation it cannot serve.
    """
    common = dict(
        download=args.dataset_download,
        class_map=args.class_map,
        input_img_mode=args.input_img_mode or ("RGB" if data_config["input_size"][0] == 3 else "L"),
        input_key=args.input_key,
        target_key=args.target_key,
        num_classes=args.num_classes,
    )
    train_set = open_dataset(args.dataset, args.data_dir, args.train_split, is_training=True, **common)
    eval_set = open_dataset(args.dataset, args.data_dir, args.val_split, **common)
    if len(train_set) < args.batch_size:
        raise DataError(f"batch_size={args.batch_size} is more than the {len(train_set)} training images")
    shared = dict(device=device, dtype=dtype, workers=args.workers, pin_memory=args.pin_mem)
    eval_loader = create_eval_loader(eval_set, data_config, args.validation_batch_size or args.batch_size, **shared)
    if pad is None:
        return _augmenting_loader(train_set, args, data_config, device, dtype), eval_loader
    _check_in_memory(args)
    augment = {}
    if not args.no_aug:
        erasing = RandomErasing(args.reprob, mode=args.remode, max_count=args.recount, device=device)
        augment = dict(pad=pad, hflip=args.hflip, erasing=erasing if args.reprob else None)
    train_loader = create_eval_loader(train_set, data_config, args.batch_size, **shared)
    return InMemoryLoader(train_loader, training=True, seed=args.seed, **augment), InMemoryLoader(eval_loader)


def create_eval_loader(
    dataset: Dataset,
    data_config: Mapping[str, Any],
    batch_size: int,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    workers: int = 0,
    pin_memory: bool = False,
) -> Any:
    """timm's loader with the evaluation transform: every image once, in order, the last batch as short as it is.

    Workers live for one epoch, see `_augmenting_loader`.
    """
    return create_loader(
        dataset,
        data_config["input_size"],
        batch_size,
        interpolation=data_config["interpolation"],
        mean=data_config["mean"],
        std=data_config["std"],
        crop_pct=data_config["crop_pct"],
        crop_mode=data_config["crop_mode"],
        num_workers=workers,
        pin_memory=pin_memory,
        img_dtype=dtype,
        device=device,
        persistent_workers=False,
    )


def _augmenting_loader(
    dataset: Dataset, args: argparse.Namespace, data_config: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> Any:
    """timm's training loader with train.py's arguments.

    Workers live for one epoch: their seeds then come from torch's generator each time, which a checkpoint can restore.
    """
    interpolation = data_config["interpolation"] if args.no_aug else args.train_interpolation
    return create_loader(
        dataset,
        data_config["input_size"],
        args.batch_size,
        is_training=True,
        no_aug=args.no_aug,
        re_prob=args.reprob,
        re_mode=args.remode,
        re_count=args.recount,
        train_crop_mode=args.train_crop_mode,
        scale=args.scale,
        ratio=args.ratio,
        hflip=args.hflip,
        vflip=args.vflip,
        color_jitter=args.color_jitter,
        color_jitter_prob=args.color_jitter_prob,
        grayscale_prob=args.grayscale_prob,
        gaussian_blur_prob=args.gaussian_blur_prob,
        auto_augment=args.aa,
        interpolation=interpolation or data_config["interpolation"],
        mean=data_config["mean"],
        std=data_config["std"],
        num_workers=args.workers,
        pin_memory=args.pin_mem,
        img_dtype=dtype,
        device=device,
        use_prefetcher=not args.no_prefetcher,
        persistent_workers=False,
        worker_seeding=args.worker_seeding,
    )


def _check_in_memory(args: argparse.Namespace) -> None:
    if args.no_aug:
        return
    wanted = ("vflip", "color_jitter", "grayscale_prob", "gaussian_blur_prob", "aa")
    asked = [f"{key}={getattr(args, key)!r}" for key in wanted if getattr(args, key)]
    if asked:
        raise DataError(
            f"--in-memory crops, flips and erases only; it cannot serve {', '.join(asked)}. Set to 0 (aa: null) or "
            "leave out --in-memory"
        )


class InMemoryLoader:
    """A small dataset, decoded once, on the device as bytes; random crop and horizontal flip are done batch-wise there.

    The crop is the one of the CIFAR papers: `pad` zero pixels on every side, then a window of the original size. It
    stands in for train.py's `train_crop_mode`, `scale` and `ratio`, which resize: with the same recipe the two ways of
    loading augment alike but not equally. Evaluation is bit-equal to timm's loader.

    Args:
        loader: timm's loader over the set with the evaluation transform (`create_eval_loader`).
        training: Shuffle, augment, leave out the last short batch.
        pad: Width of the zero border that the crop may reach into, in pixels.
        hflip: Probability of a horizontal flip.
        erasing: timm's random erasing, applied to the normalised batch.
        seed: Of the loader's own generator (order, crops, flips), which lives on the CPU.
    """

    def __init__(
        self,
        loader: Any,
        *,
        training: bool = False,
        pad: int = 0,
        hflip: float = 0.0,
        erasing: RandomErasing | None = None,
        seed: int = 42,
    ):
        batches = list(loader.loader)  # what the prefetcher takes from the workers: uint8 images, labels
        images = torch.cat([images for images, _ in batches]).to(loader.device)
        self.height, self.width = images.shape[-2:]
        self.images = F.pad(images, (pad, pad, pad, pad))  # (N, C, H + 2 pad, W + 2 pad), uint8
        self.targets = torch.cat([targets for _, targets in batches]).to(loader.device)
        self.mean, self.std, self.dtype = loader.mean, loader.std, loader.img_dtype
        self.batch_size, self.training = loader.loader.batch_size, training
        self.pad, self.hflip, self.erasing = pad, hflip, erasing
        self.dataset = loader.dataset
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.targets), self.batch_size)
        return whole + (rest > 0 and not self.training)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self.targets)
        order = torch.randperm(count, generator=self.generator) if self.training else torch.arange(count)
        for index in order[: len(self) * self.batch_size].split(self.batch_size):
            images = self._window(index) if self.training else self.images[index.to(self.images.device)]
            images = images.to(self.dtype).sub_(self.mean).div_(self.std)
            if self.erasing is not None:
                images = self.erasing(images)
            yield images, self.targets[index.to(self.targets.device)]

    def _window(self, index: Tensor) -> Tensor:
        """Images `index`, each cropped and flipped at random: one gather from the padded set. (B, C, H, W), uint8."""
        device, count = self.images.device, len(index)
        top, left = torch.randint(2 * self.pad + 1, (2, count, 1), generator=self.generator)
        flip = torch.rand(count, 1, generator=self.generator) < self.hflip
        rows = top + torch.arange(self.height)  # (B, H)
        cols = torch.arange(self.width)
        cols = left + torch.where(flip, cols.flip(0), cols)  # (B, W)
        channels = torch.arange(self.images.shape[1], device=device)
        return self.images[
            index.to(device)[:, None, None, None],
            channels[None, :, None, None],
            rows.to(device)[:, None, :, None],
            cols.to(device)[:, None, None, :],
        ]
