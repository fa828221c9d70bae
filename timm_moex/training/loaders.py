"""Data loaders of the built-in trainer: timm's, with train.py's arguments, or a small dataset kept on the device."""

import argparse
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from timm.data import create_loader
from timm.data.loader import PrefetchLoader
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from ..utils.messages import short_repr
from ..utils.reraise import reraise_as
from .datasets import DataError, group_names, label_names, open_split
from .distributed import Processes
from .in_memory import InMemoryLoader, check_in_memory
from .recipe import RecipeError

__all__ = ["GroupedLoader", "create_eval_loader", "create_loaders"]


class _Wrapper:
    """A loader around another one, with its attributes: dataset, sampler, generator, mean, std."""

    def __init__(self, loader: Any):
        self._wrapped = loader

    def __len__(self) -> int:
        return len(self._wrapped)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


class GroupedLoader(_Wrapper):
    """A loader that splits targets that encode class and group (see `FolderReader`) into the two."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        classes = self.dataset.reader.width
        for images, code in self._wrapped:
            yield images, code % classes, code // classes


class SeededLoader(_Wrapper):
    """A loader that augments with its own states of Python's, NumPy's and torch's CPU generators.

    Random erasing, and without workers all transforms, run in this process. If they shared the generators with
    exchanges, dropout and Mixup, two methods with the same seed would see different crops. In each epoch, the states
    are seeded from the loader's own generator, which is read but not advanced.
    """

    def __iter__(self) -> Iterator[Any]:
        start = torch.Generator()
        start.set_state(self.generator.get_state())
        seed = int(torch.randint(2**31, (), generator=start))
        own = (
            random.Random(seed).getstate(),
            np.random.RandomState(seed).get_state(),
            torch.Generator().manual_seed(seed).get_state(),
        )
        batches = iter(self._wrapped)
        while True:
            outside = _random_states()
            _set_random_states(own)
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                own = _random_states()
                _set_random_states(outside)
            yield batch


def _random_states() -> tuple[Any, Any, Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set_random_states(states: tuple[Any, Any, Tensor]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def _take_groups_apart(loader: Any) -> Any:
    return GroupedLoader(loader) if group_names(loader.dataset) else loader


def create_loaders(
    args: argparse.Namespace, data_config: Mapping[str, Any], processes: Processes, dtype: torch.dtype
) -> tuple[Any, Any]:
    """Create the training and evaluation loaders; both yield images (B, C, H, W), normalised, and labels (B,).

    All tensors are on the device. With `group_folders` the loaders also yield the groups' numbers, (B,), int64, see
    `GroupedLoader`. The evaluation set has the classes of the training set, by name.

    With several processes, each gets a share: the same number of training images as the others, and every evaluation
    image exactly once. timm repeats some at the end of the last share (see `Processes.share_of`).

    In training, another image replaces an unreadable one, as in train.py, and the replacements are counted.
    """
    shape = dict(
        num_classes=args.num_classes, channels=data_config["input_size"][0], input_img_mode=args.input_img_mode
    )
    with processes.main_process_first():  # it may download the data
        train_set = open_split(args, args.train_split, unreadable="replace", **shape)
        classes = None if args.class_map else label_names(train_set) or None
        unreadable = "drop" if args.skip_unreadable else "error"
        eval_set = open_split(args, args.val_split, unreadable=unreadable, classes=classes, **shape)
    _check_sets(args, train_set, eval_set, processes.count)
    shared = dict(device=processes.device, img_dtype=dtype, num_workers=args.workers, pin_memory=args.pin_mem)
    eval_batch, several = args.validation_batch_size or args.batch_size, processes.count > 1
    eval_loader = create_eval_loader(eval_set, data_config, eval_batch, distributed=several, **shared)
    if not args.in_memory:
        train_loader = _augmenting_loader(train_set, args, data_config, distributed=several, **shared)
        return _take_groups_apart(train_loader), eval_loader
    check_in_memory(args)
    augment: dict[str, Any] = dict(seed=args.seed, rank=processes.rank, processes=processes.count)
    if not args.no_aug:
        erasing = RandomErasing(args.reprob, mode=args.remode, max_count=args.recount, device=processes.device)
        augment |= dict(pad=args.pad, hflip=args.hflip, erasing=erasing if args.reprob else None)
    train_loader = create_eval_loader(train_set, data_config, args.batch_size, **shared)
    train_loader = InMemoryLoader(train_loader, training=True, **augment)
    return _take_groups_apart(train_loader), _take_groups_apart(InMemoryLoader(eval_loader))


def _check_sets(args: argparse.Namespace, train_set: Any, eval_set: Any, processes: int) -> None:
    if args.donors_from == "other_groups" and not args.group_folders:
        raise RecipeError("donors_from: 'other_groups' needs group_folders: true")
    groups = group_names(train_set)
    if args.group_folders and args.donors_from != "any" and len(groups) < 2:
        raise DataError(
            f"donors from other groups need at least two groups, but {args.data_dir} has only {', '.join(groups)} for "
            "training; set donors_from: any"
        )
    if len(train_set) < args.batch_size * processes:
        in_each = f" in each of {processes} processes" if processes > 1 else ""
        raise DataError(
            f"batch_size={args.batch_size}{in_each} is larger than the training set of {len(train_set)} images"
        )
    if len(eval_set) < processes:
        raise DataError(f"the evaluation set has {len(eval_set)} images, fewer than the {processes} processes")


def create_eval_loader(
    dataset: Any, data_config: Mapping[str, Any], batch_size: int, *, device: torch.device, **kwargs: Any
) -> Any:
    """Create timm's loader with the evaluation transform: every image once, in order, with a short last batch.

    With `distributed` it yields this process's share, padded with other images to the length of the longest share.
    `kwargs` are further arguments of `timm.data.create_loader`.
    """
    config = {key: data_config[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")}
    kwargs = dict(num_workers=0, pin_memory=False, persistent_workers=False) | kwargs
    return _take_groups_apart(create_loader(dataset, batch_size=batch_size, device=device, **config, **kwargs))


def _augmenting_loader(dataset: Any, args: argparse.Namespace, data_config: Mapping[str, Any], **kwargs: Any) -> Any:
    """Create timm's training loader with train.py's arguments.

    Workers are restarted in each epoch, so that their seeds come from the loader's generator, which a checkpoint can
    restore.
    """
    config = {key: data_config[key] for key in ("input_size", "mean", "std")}
    config["interpolation"] = (not args.no_aug and args.train_interpolation) or data_config["interpolation"]
    same_names = ["no_aug", "train_crop_mode", "scale", "ratio", "hflip", "vflip", "color_jitter", "color_jitter_prob"]
    same_names += ["grayscale_prob", "gaussian_blur_prob", "batch_size", "worker_seeding"]
    augment = {key: getattr(args, key) for key in same_names} | dict(auto_augment=args.aa)
    augment |= dict(re_prob=args.reprob, re_mode=args.remode, re_count=args.recount)
    kwargs |= dict(use_prefetcher=not args.no_prefetcher, persistent_workers=False)
    with reraise_as(RecipeError, f"aa: {short_repr(args.aa)}, color_jitter: {args.color_jitter}"):
        loader = create_loader(dataset, is_training=True, **config, **augment, **kwargs)
    rank = torch.distributed.get_rank() if kwargs["distributed"] else 0
    return SeededLoader(_with_own_generator(loader, args.seed + rank))


def _with_own_generator(loader: Any, seed: int) -> Any:
    """Make a loader draw its order and its workers' seeds from its own generator, `loader.generator`.

    With torch's global generator, which exchanges also use, the order of the images would depend on the exchanges.
    """
    inner = loader.loader if isinstance(loader, PrefetchLoader) else loader
    loader.generator = inner.generator = torch.Generator().manual_seed(seed)
    if isinstance(inner.sampler, torch.utils.data.RandomSampler):
        inner.sampler.generator = loader.generator
    return loader
