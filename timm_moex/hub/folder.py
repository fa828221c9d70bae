"""Folders in the Hub's layout, which plain timm loads: `timm.create_model("local-dir:FOLDER", pretrained=True)`.

A folder carries the stock architecture's name and no MoEx setting: MoEx adds no weights, so whoever evaluates or
fine-tunes needs timm alone. To go on training with MoEx, `load_twin` puts it back in.
"""

import copy
import errno
import itertools
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError
from timm.models import save_for_hf
from timm.utils import unwrap_model
from torch import nn

from ..insertion.insert import insert_moex
from ..utils.names import TWIN_PREFIX
from .card import model_card
from .download import WEIGHTS, HubError, download_weights, translate_errors

__all__ = ["load_model", "load_twin", "save_folder"]

_DATA_KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
# What a pretrained_cfg says of the weights it came with
_OTHERS = (
    "url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "tag", "custom_load", "pool_size",
    "test_input_size", "test_crop_pct", "label_names", "label_descriptions", "label_offset",
)  # fmt: skip


def save_folder(
    model: nn.Module,
    folder: str | Path,
    data_config: Mapping[str, Any],
    *,
    label_names: Sequence[str] = (),
    model_args: Mapping[str, Any] | None = None,
    summary: str | Path | None = None,
    card: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write model.safetensors, config.json, README.md and, if given, summary.csv.

    The folder appears whole, or the old one stays.

    Args:
        model: As `timm.create_model` made it, twin or not; DDP, compiled and EMA wrappers are taken off.
        folder: Is created, or replaced if it holds a config.json already.
        data_config: The preprocessing, as from `timm.data.resolve_data_config`: input_size, mean, std, …
        label_names: Class names in the order of the labels.
        model_args: Arguments of `create_model` that change the architecture; those of MoEx are left out.
        summary: The training run's summary.csv, to be copied.
        card: What is known of the training, for README.md; keys as in `card.FACTS`.
        dtype: Of the parameters in the file, such as torch.float16, to halve its size; buffers (running means and
            variances) stay as they are. timm loads them into a float32 model. None leaves the model's own.

    Returns:
        `folder`.

    Raises:
        ValueError: The labels or the input's channels do not fit the model, or a parameter does not fit `dtype`.
        FileExistsError: `folder` is something else than such a folder.
        HubError: The disk is full, or another reason not to write.
    """
    model, folder = unwrap_model(model), Path(folder)
    if label_names and len(label_names) != model.num_classes:
        raise ValueError(f"label_names: {len(label_names)} names for a model with num_classes={model.num_classes}")
    if _is_other(folder):
        raise FileExistsError(f"{folder} exists and has no config.json; not replaced")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            new = Path(temporary) / "new"
            config = _write_model(new, model, data_config, label_names, model_args or {}, dtype)
            (new / "README.md").write_text(model_card(config, card or {}))
            if summary is not None:
                shutil.copyfile(summary, new / "summary.csv")
            _replace(folder, new)
    except (OSError, SafetensorError) as error:
        raise HubError(f"{folder} could not be written ({error}); what was there before is still there") from error
    return folder


def _write_model(
    folder: Path,
    model: nn.Module,
    data_config: Mapping[str, Any],
    label_names: Sequence[str],
    model_args: Mapping[str, Any],
    dtype: torch.dtype | None,
) -> dict[str, Any]:
    """Write model.safetensors and config.json; returns the config."""
    # safetensors takes contiguous tensors only, and a model trained in channels_last has others.
    plain = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
    for name, parameter in plain.named_parameters() if dtype else ():
        parameter.data = parameter.data.to(dtype)
        if not torch.isfinite(parameter).all():
            raise ValueError(f"dtype={dtype}: {name} is not finite in it")
    plain.pretrained_cfg = _pretrained_cfg(model, data_config)
    save_for_hf(plain, str(folder), model_config={"label_names": list(label_names)}, safe_serialization=True)
    # safetensors lets only its owner read the file
    (folder / WEIGHTS).chmod((folder / "config.json").stat().st_mode)
    config = json.loads((folder / "config.json").read_text())
    config["model_args"] = _model_args({**config.get("model_args", {}), **model_args})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return config


def _is_other(folder: Path) -> bool:
    """Whether something without a config.json is there, also while other processes replace the folder."""
    with suppress(FileNotFoundError, NotADirectoryError):
        while True:
            before = folder.stat()
            if (folder / "config.json").is_file():
                return False
            after = folder.stat()
            # Without a config.json, and it is still the same: no other process took it away between the two looks.
            if (before.st_dev, before.st_ino, before.st_mtime_ns) == (after.st_dev, after.st_ino, after.st_mtime_ns):
                return True
    return False


def _replace(folder: Path, new: Path) -> None:
    """Put `new` where `folder` is, also while other processes do the same: the last one's stays."""
    for attempt in itertools.count():
        with suppress(FileNotFoundError):
            folder.rename(new.with_name(f"old{attempt}"))
        try:
            new.rename(folder)
            return
        except OSError as error:  # another process was quicker
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _pretrained_cfg(model: nn.Module, data_config: Mapping[str, Any]) -> dict[str, Any]:
    """The model's own, under the stock name, with this training's preprocessing and no other weights' origin."""
    cfg = {k: v for k, v in model.pretrained_cfg.items() if v is not None and k not in _OTHERS}
    cfg["architecture"] = cfg["architecture"].removeprefix(TWIN_PREFIX)
    cfg.update({key: data_config[key] for key in _DATA_KEYS if key in data_config})
    return cfg | {"num_classes": model.num_classes}


def _model_args(arguments: dict[str, Any]) -> dict[str, Any]:
    """What the model must be built with again. Newer timm records all arguments, MoEx's and the training's too."""
    redundant = ("num_classes", "in_chans", "drop_rate", "drop_path_rate", "drop_block_rate")
    return {k: v for k, v in arguments.items() if not k.startswith(TWIN_PREFIX) and k not in redundant}


def load_model(source: str | Path, *, pretrained: bool = True, **kwargs: Any) -> nn.Module:
    """`timm.create_model`, with errors that say what to do, and Hub weights checked against what the Hub said of them.

    Args:
        source: A folder, "hf-hub:ORG/NAME", "hf-hub:ORG/NAME@REVISION", "local-dir:FOLDER", or a registered name.
        pretrained: Whether to load the weights.
        **kwargs: Further arguments of `create_model`: num_classes, in_chans, features_only, …

    Raises:
        HubError: It could not be had; the message says what to do.
    """
    name = f"local-dir:{source}" if isinstance(source, Path) or Path(source).is_dir() else source
    with translate_errors(name):
        if name.startswith("hf-hub:") and pretrained:
            repo, _, revision = name.removeprefix("hf-hub:").partition("@")
            try:
                download_weights(repo, revision or None, cache_dir=kwargs.get("cache_dir"))
            except EntryNotFoundError as error:  # no safetensors there: timm knows other files
                if isinstance(error, LocalEntryNotFoundError):
                    raise
        return timm.create_model(name, pretrained=pretrained, **kwargs)


def load_twin(source: str | Path, **settings: Any) -> nn.Module:
    """Load saved weights and put MoEx in: what `create_model("moex_…")` gives for an architecture's own tags.

    Args:
        source: As for `load_model`.
        **settings: As for `insert_moex`: layer, norm, prob, lam, …

    Returns:
        The pretrained model, holding MoEx.

    Raises:
        HubError: See `load_model`.
    """
    return insert_moex(load_model(source), **settings)
