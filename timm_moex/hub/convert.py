"""Convert the official repository's training checkpoints into folders that plain timm loads.

A checkpoint is a dict with epoch, arch, state_dict, best_prec1 and optimizer. Its weights have torchvision's names with
the `module.` prefix of distributed training. The file is read with `weights_only=True`, and anything unexpected in it
raises an error that names it.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from ..utils.reraise import reraise_as
from .folder import save_folder

__all__ = ["ARCHITECTURES", "ConvertError", "convert", "without_common_prefix"]

# timm's name: the official repository's name
ARCHITECTURES = {"resnet50": "moex_resnet50", "densenet265": "moex_densenet_265"}

_KEYS = ("epoch", "arch", "state_dict", "best_prec1", "optimizer")
# The official evaluation: resize the shorter side to 256 with bilinear interpolation, crop the middle 224 x 224
_DATA_CONFIG = dict(input_size=(3, 224, 224), interpolation="bilinear", crop_pct=0.875, crop_mode="center")
_DATA_CONFIG |= dict(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
# Entries of timm's cfg that describe timm's own weights
_OF_OTHER_WEIGHTS = ("license", "description", "origin_url", "paper_name", "paper_ids", "notes")
_ORIGIN = (
    "Trained with [Moment Exchange](https://arxiv.org/abs/2002.11102) by the [official code]"
    "(https://github.com/Boyiliee/MoEx); converted by timm_moex."
)
_OLD_DENSENET_NAME = re.compile(r"(.*\.denselayer\d+\.(?:norm|conv))\.([12]\..*)")


class ConvertError(ValueError):
    """The file cannot be converted; nothing was written."""


def convert(file: str | Path, arch: str, output: str | Path, *, license: str | None = None) -> Path:
    """Turn a checkpoint of the official training scripts into a folder, see `save_folder`.

    `arch` is a key of `ARCHITECTURES`. `license` is for the card, because the official files do not state one.

    Raises:
        FileNotFoundError: `file` does not exist.
        ConvertError: `arch` is unknown, or the file is not an official checkpoint of it or needs unpickling.
    """
    if arch not in ARCHITECTURES:
        raise ConvertError(f"arch={arch!r}: expected one of {', '.join(ARCHITECTURES)}")
    file = Path(file)
    checkpoint = _read(file)
    official = checkpoint.get("arch", ARCHITECTURES[arch])
    if official != ARCHITECTURES[arch]:
        known = {theirs: ours for ours, theirs in ARCHITECTURES.items()}
        hint = f"; use --arch {known[official]}" if official in known else ""
        raise ConvertError(f"{file} has arch {official!r}, not {ARCHITECTURES[arch]!r}{hint}")
    model = _load(_state_dict(checkpoint["state_dict"], file), arch, file)
    best = checkpoint.get("best_prec1")
    results = None if best is None else f"top-1 {float(best):.2f}, as stated in the file; not re-evaluated"
    card = dict(dataset="ImageNet-1k", results=results, license=license, origin=_ORIGIN)
    return save_folder(model, output, _DATA_CONFIG, card=card)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the type depends on the bytes
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            message = f"{file} contains a pickled {found[1]}; unpickling it could run code from the file"
        else:
            message = f"{file} is truncated or not a PyTorch file: {str(error).partition(chr(10))[0]}"
        raise ConvertError(message) from error
    if not isinstance(checkpoint, Mapping) or "state_dict" not in checkpoint:
        keys = _first(checkpoint) if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
        raise ConvertError(f"{file} is not a training checkpoint: expected 'state_dict', found {keys}")
    if "pytorch-lightning_version" in checkpoint:
        raise ConvertError(
            f"{file} is a Lightning checkpoint, not an official one; load it into a model (for example with a recipe's "
            "initial_checkpoint) and write the folder with timm_moex.save_folder"
        )
    if foreign := [key for key in checkpoint if key not in _KEYS]:
        raise ConvertError(f"{file} contains unexpected keys: {_first(foreign)}; expected only {', '.join(_KEYS)}")
    return dict(checkpoint)


def _state_dict(state: Any, file: Path) -> dict[str, Tensor]:
    """Rename the weights as in timm: drop DDP's prefix, and turn the `norm.1` of older DenseNets into `norm1`."""
    if not isinstance(state, Mapping):
        raise ConvertError(f"{file}: 'state_dict' is a {type(state).__name__}, not a dict of tensors")
    renamed = {}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ConvertError(f"{file}: state_dict[{key!r}] is a {type(value).__name__}, not a tensor")
        if value.is_floating_point() and not value.isfinite().all():
            raise ConvertError(f"{file}: state_dict[{key!r}] is not finite")
        name = _OLD_DENSENET_NAME.sub(r"\1\2", key.removeprefix("module."))
        if name in renamed:
            raise ConvertError(f"{file}: state_dict has {name!r} twice, once as {key!r}")
        renamed[name] = value
    return renamed


def _load(state: dict[str, Tensor], arch: str, file: Path) -> nn.Module:
    heads = [tensor for key, tensor in state.items() if key.endswith(("fc.weight", "classifier.weight"))]
    num_classes = len(heads[0]) if heads else 1000
    model = timm.create_model(arch, num_classes=num_classes, pretrained_cfg_overlay=dict.fromkeys(_OF_OTHER_WEIGHTS))
    with reraise_as(ConvertError, f"{file} does not fit {arch}"):
        model.load_state_dict(without_common_prefix(state, model))
    return model


def without_common_prefix(state: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Remove a common prefix, such as Lightning's `model.`, if the keys then match the model's.

    timm's `load_checkpoint` takes this function as its `filter_fn`.

    Raises:
        ValueError: No key matches the model's, with or without a prefix; the message shows keys of both.
    """
    expected = model.state_dict().keys()
    if not state or not expected or state.keys() & expected:
        return dict(state)
    first = next(iter(expected))
    prefixes = {key.removesuffix(first) for key in state if key.endswith(f".{first}")}
    fitting = [prefix for prefix in prefixes if 2 * sum(prefix + key in state for key in expected) > len(expected)]
    if len(fitting) == 1:
        return {key.removeprefix(fitting[0]): value for key, value in state.items()}
    raise ValueError(f"none of its keys match the model: it has {_first(state)}; the model has {_first(expected)}")


def _first(names: Iterable[Any], count: int = 3) -> str:
    names = list(map(str, names))
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
