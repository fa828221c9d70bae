"""Open a saved model together with the data to evaluate it on, because the two must fit together."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import ImageNetInfo, resolve_data_config
from timm.models import get_arch_pretrained_cfgs
from torch import Tensor, nn

from ..hub.address import hidden_model
from ..hub.folder import load_model
from ..utils.devices import pick_device
from ..utils.messages import did_you_mean
from ..utils.names import check_model_name
from .datasets import DataError, group_names, ignored_files, label_names, open_dataset, unreadable_files
from .folders import ClassError
from .loaders import create_eval_loader
from .splits import EVAL_SPLITS, TRAIN_SPLITS, is_flat, is_hidden

__all__ = ["SUBSETS", "Inference", "imagenet_subset", "locate_subset", "open_inference", "predict_samples", "timm_name"]

# Test sets with 200 of ImageNet's classes → timm's list of their synsets
SUBSETS = {"imagenet-a": "_info/imagenet_a_synsets.txt", "imagenet-r": "_info/imagenet_r_synsets.txt"}


@dataclass(frozen=True)
class Inference:
    """A model and its test set.

    Attributes:
        loader: Yields images (B, C, H, W), normalised, and labels (B,), on `device`; with groups, also their numbers.
        class_names: In the order of the loader's labels; numbers if neither model nor data have names.
    """

    name: str
    model: nn.Module
    loader: Any
    device: torch.device
    class_names: list[str]

    @property
    def groups(self) -> list[str]:
        return group_names(self.loader.dataset)

    @property
    def ignored(self) -> str:
        return ignored_files(self.loader.dataset)

    @property
    def unreadable(self) -> list[str]:
        return unreadable_files(self.loader.dataset)


def open_inference(
    model: str,
    data_dir: str | Path | None,
    *,
    dataset: str = "",
    split: str = "validation",
    batch_size: int = 256,
    workers: int = 0,
    device: str = "cpu",
    skip_unreadable: bool = False,
    columns: Mapping[str, int] | None = None,
    val_fraction: float = 0.0,
    group_folders: bool = False,
    only_group: str | None = None,
    ignore_label_names: bool = False,
) -> Inference:
    """Load a model, and open the dataset with the size, channels and normalisation that the model needs.

    Args:
        model: A folder that timm can load (…/hub), or the name of a model.
        data_dir: The data folder; see `open_dataset` for `dataset` and `split`.
        skip_unreadable: Whether to skip images that cannot be read instead of raising an error.
        columns: Synset folders and their columns in ImageNet's 1,000 logits, see `imagenet_subset`.
        val_fraction: Share of the images that forms the split `validation`, as in training. With 0, the split's
            folder is read, or the whole folder if it has no splits.
        group_folders: Whether the folders are GROUP/CLASS/image; batches then also contain the groups' numbers.
        only_group: The only group to open; use `split=""` for all its images.
        ignore_label_names: Whether to match classes by their order. By default, the classes of the data are matched
            with the model's `label_names` by name, if both have names.
    """
    where, name = pick_device(device), timm_name(model)
    loaded = load_model(name).to(where)
    config = resolve_data_config({}, model=loaded)
    classes: Any = loaded.num_classes
    shape: dict[str, Any] = dict(num_classes=classes, channels=config["input_size"][0])
    shape |= dict(val_fraction=val_fraction, group_folders=group_folders, only_group=only_group)
    is_folder = not dataset and data_dir is not None and Path(data_dir).is_dir()
    if is_folder and not val_fraction and split in TRAIN_SPLITS + EVAL_SPLITS and is_flat(str(data_dir)):
        split = ""
    if columns:
        if loaded.num_classes != 1000:
            raise ValueError(f"--subset needs ImageNet's 1,000 classes; {name} has {loaded.num_classes}")
        shape |= dict(num_classes=len(columns), class_map={synset: i for i, synset in enumerate(columns)})
    own = None if ignore_label_names or columns else _own_names(loaded, name)
    unreadable = "drop" if skip_unreadable else "error"
    try:
        opened = open_dataset(dataset, data_dir, split, unreadable=unreadable, classes=own, **shape)
    except ClassError as error:
        raise DataError(f"{error}; use --ignore-label-names to match classes by their order") from error
    loader = create_eval_loader(opened, config, batch_size, device=where, num_workers=workers)
    found = label_names(opened)
    return Inference(name, loaded, loader, where, own if own and found else found or list(map(str, range(classes))))


def _own_names(model: Any, name: str) -> list[str] | None:
    """Return the class names stored in a model's checkpoint."""
    names = [str(label) for label in model.pretrained_cfg.get("label_names") or ()]
    if names and (len(names) != model.num_classes or len(set(names)) < len(names)):
        raise ValueError(
            f"{name}: label_names has {len(set(names))} different names for {model.num_classes} classes; "
            "use --ignore-label-names to match classes by their order"
        )
    return names or None


def timm_name(model: str) -> str:
    """Return the name by which timm loads a model, given as a name or a folder (…/hub). It must have weights."""
    folder = Path(model)
    if not folder.is_dir():
        check_model_name(model)
        _check_has_weights(model)
        return model
    if not (folder / "config.json").is_file():
        hint = f"; did you mean {folder / 'hub'}?" if (folder / "hub" / "config.json").is_file() else ""
        raise ValueError(f"{folder} has no config.json, so timm cannot load it{hint or hidden_model(model)}")
    return f"local-dir:{folder}"


def _check_has_weights(name: str) -> None:
    cfg = timm.get_pretrained_cfg(name) if ":" not in name else None
    if cfg is not None and not cfg.has_weights:
        there = [full for full, other in get_arch_pretrained_cfgs(name.partition(".")[0]).items() if other.has_weights]
        hint = f"; these have weights: {', '.join(there)}" if there else ""
        raise ValueError(f"model: {name!r} has no weights{hint}")


@torch.inference_mode()
def predict_samples(opened: Inference, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Classify images spread evenly over the test set.

    Args:
        opened: The model, left in eval mode, and its data.
        count: Number of images, at least 1; a smaller set is used whole.

    Returns:
        Images (B, C, H, W) before normalisation, with values in [0, 1]; true classes (B,); predicted classes (B,). All
        on the CPU.
    """
    dataset, loader = opened.loader.dataset, opened.loader
    step = max(1, len(dataset) // count)
    picked = [dataset[i] for i in range(0, len(dataset), step)][:count]
    images = torch.stack([torch.as_tensor(image) for image, _ in picked])  # uint8
    normalised = (images.to(opened.device).float() - loader.mean) / loader.std
    logits = opened.model.eval()(normalised)
    if not logits.isfinite().all():
        raise ValueError(f"{opened.name}: the logits are not finite")
    predictions = logits.argmax(1)
    labels = torch.tensor([label for _, label in picked])
    return images / 255, labels % dataset.reader.width if group_names(dataset) else labels, predictions.cpu()


def imagenet_subset(name: str) -> dict[str, int]:
    """Map each synset of a subset to its column in the 1,000 logits, in the order of the synsets."""
    if name not in SUBSETS:
        raise ValueError(f"--subset {name!r}: expected one of {', '.join(SUBSETS)}{did_you_mean(name, SUBSETS)}")
    column = {synset: i for i, synset in enumerate(ImageNetInfo().label_names())}
    listed = resources.files("timm.data").joinpath(SUBSETS[name]).read_text(encoding="utf-8")
    return {synset: column[synset] for synset in sorted(listed.split())}


def locate_subset(name: str, data_dir: str | Path | None, split: str) -> tuple[dict[str, int], str]:
    """Find a subset's synset folders, in `data_dir` or in its folder `split`, before any image is read.

    Returns:
        The subset's columns, see `imagenet_subset`, and the split to open: "" if `data_dir` has no such folder.
    """
    columns = imagenet_subset(name)
    if not data_dir or not Path(data_dir).is_dir():
        raise DataError(f"--data-dir {str(data_dir or '')!r}: no such folder")
    found_split = split if any((Path(data_dir) / part).is_dir() for part in (split, "val")) else ""
    folders = [path.name for path in (Path(data_dir) / found_split).iterdir() if path.is_dir()]
    if strangers := sorted(name for name in folders if name not in columns and not is_hidden(name)):
        raise DataError(f"--data-dir {str(data_dir)!r}: not synsets of {name}: {', '.join(strangers[:5])}")
    return columns, found_split
