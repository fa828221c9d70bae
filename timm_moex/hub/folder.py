"""Folders in the Hub's layout, which plain timm loads: `timm.create_model("local-dir:FOLDER", pretrained=True)`.

A folder names the stock architecture and contains no MoEx settings. MoEx adds no weights, so evaluation and fine-tuning
need only timm. `load_twin` inserts MoEx again to continue training with it.
"""

import copy
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub.constants import CONFIG_NAME
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError
from timm.models import save_for_hf
from timm.utils import unwrap_model
from torch import nn

from ..insertion.insert import insert_moex
from ..utils.files import lock_of, remove_folder, remove_leftovers, replace_folder, temporary_name
from ..utils.names import is_twin_name, stock_name
from ..utils.reraise import reraise_as
from .address import parse_address
from .card import model_card, recipe_text
from .config import label_list, plain_preprocessing, preprocessing_problems
from .download import WEIGHTS, HubError, download_weights, translate_errors
from .manifest import Provenance
from .rebuild import check_rebuilt

__all__ = ["FILES", "README", "load_model", "load_twin", "save_folder", "unexpected_files"]

README, RECIPE = "README.md", "recipe.yaml"
# The only files that a folder may contain
FILES = (WEIGHTS, CONFIG_NAME, README, "summary.csv", RECIPE, "LICENSE")

# pretrained_cfg keys that describe the original weights, although timm's `save_for_hf` keeps them
_OF_OTHER_WEIGHTS = ("tag", "label_names", "label_descriptions")


def save_folder(
    model: nn.Module,
    folder: str | Path,
    data_config: Mapping[str, Any],
    *,
    label_names: Sequence[str] | Mapping[Any, Any] = (),
    model_args: Mapping[str, Any] | None = None,
    summary: str | Path | None = None,
    card: Provenance | Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write model.safetensors, config.json, README.md and, if given, recipe.yaml and summary.csv.

    The folder is replaced as a whole or not at all, even if other processes save to the same path. Before it is put in
    place, the model is rebuilt from it and the logits are compared.

    Args:
        model: A model from `timm.create_model`, twin or not; DDP, compiled and EMA wrappers are removed.
        folder: Created if missing; replaced if it contains only files from an earlier `save_folder`. Symbolic links
            are followed, and ~ expands to the home folder.
        data_config: The preprocessing, as returned by `timm.data.resolve_data_config`: input_size, mean, std, …
        label_names: Class names in the order of the labels, or a mapping from label to name or from name to label.
        model_args: Arguments of `create_model` that change the architecture, if timm has not recorded them. MoEx
            arguments are left out.
        summary: The training run's summary.csv, which is copied.
        card: Provenance of the weights for README.md: a `Provenance`, or a mapping with its attributes as keys. Its
            `recipe` is also written to recipe.yaml.
        dtype: Data type of the saved parameters, such as torch.float16 to halve the file size. Buffers (running means
            and variances) keep theirs. timm loads them into a float32 model. None keeps the model's data types.

    Returns:
        `folder`, with ~ expanded.

    Raises:
        ValueError: The labels do not fit the model, a weight is not finite or overflows in `dtype`, `data_config` has
            an invalid value, `card` has an unknown key, or the folder would build a different model (the message names
            the layer).
        FileExistsError: `folder` contains something that `save_folder` did not write; the message names it.
        OSError: The folder cannot be written, for example because the disk is full. The old folder is unchanged.

    Example:
        >>> import tempfile, timm
        >>> model = timm.create_model("test_resnet", num_classes=10)
        >>> folder = save_folder(model, tempfile.mkdtemp(), timm.data.resolve_data_config({}, model=model))
        >>> timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes
        10
    """
    model, folder = unwrap_model(model), Path(folder).expanduser()
    num_classes: Any = model.num_classes
    names = label_list(label_names, num_classes)
    preprocessing, provenance = plain_preprocessing(data_config), Provenance.of(card)
    _check_finite(model)
    place = Path(os.path.realpath(folder))
    with _name_folder_in_errors(folder), lock_of(place):
        remove_leftovers(place, FILES)
        _refuse_foreign(folder, place)
        new = temporary_name(place)
        new.mkdir()
        try:
            config = _write_model(new, model, preprocessing, names, model_args or {}, dtype)
            (new / README).write_text(str(model_card(config, provenance)), encoding="utf-8")
            if provenance.recipe:
                (new / RECIPE).write_text(recipe_text(provenance.recipe), encoding="utf-8")
            if summary is not None:
                shutil.copyfile(summary, new / "summary.csv")
            _put_in_place(new, folder, place)
        finally:
            remove_folder(new, FILES)
    return folder


def _refuse_foreign(folder: Path, place: Path) -> None:
    if foreign := unexpected_files(place):
        raise FileExistsError(
            f"folder={str(folder)!r} is not replaced because it contains {', '.join(foreign)}, which timm_moex did "
            "not write; choose another folder"
        )


def _put_in_place(new: Path, folder: Path, place: Path) -> None:
    """Swap in the new folder and remove the old one; swap back if a file has just been added to the old one."""
    old = replace_folder(new, place)
    if old is None:
        return
    try:
        _refuse_foreign(folder, old)
    except FileExistsError:
        old = replace_folder(old, place)
        raise
    finally:
        if old:
            remove_folder(old, FILES)


def _check_finite(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"model: {name} contains values that are not finite; nothing was saved")


@contextmanager
def _name_folder_in_errors(folder: Path) -> Iterator[None]:
    """Turn a file system error into one that names the folder and says that the old contents are unchanged."""
    try:
        yield
    except FileExistsError:
        raise
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None) or errno.EIO
        raise OSError(number, f"not written ({error}); the previous contents are unchanged", str(folder)) from error


def _write_model(
    folder: Path,
    model: nn.Module,
    preprocessing: dict[str, Any],
    label_names: list[str],
    model_args: Mapping[str, Any],
    dtype: torch.dtype | None,
) -> dict[str, Any]:
    """Write and check model.safetensors and config.json; return the config."""
    # safetensors accepts only contiguous tensors, and channels_last ones are not.
    plain: Any = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
    for name, parameter in plain.named_parameters() if dtype else ():
        parameter.data = parameter.data.to(dtype)
        if not torch.isfinite(parameter).all():
            raise ValueError(f"dtype={dtype}: {name} is not finite after conversion")
    cfg = {key: value for key, value in plain.pretrained_cfg.items() if key not in _OF_OTHER_WEIGHTS}
    plain.pretrained_cfg = cfg | {"architecture": stock_name(cfg["architecture"])}
    save_for_hf(
        plain,
        str(folder),
        model_config={"label_names": label_names},
        model_args={key: value for key, value in model_args.items() if not is_twin_name(key)},
        data_config=preprocessing,
        safe_serialization=True,
    )
    # safetensors makes the file readable only by its owner
    (folder / WEIGHTS).chmod((folder / CONFIG_NAME).stat().st_mode)
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    if config.get("model_args", {}).pop("num_classes", None) is not None:  # transformers would pass it twice
        (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2), encoding="utf-8")
    check_rebuilt(folder, plain.float().eval(), config["pretrained_cfg"]["input_size"])
    return config


def unexpected_files(folder: Path) -> list[str]:
    """List the entries of `folder` that prevent its replacement: everything that `save_folder` does not write.

    If config.json is missing or is not timm's, the list is not empty either. A missing or empty folder gives an empty
    list.
    """
    if not folder.exists():
        return []
    if not folder.is_dir():
        return [folder.name]
    found = list(folder.iterdir())
    foreign = [path.name for path in found if path.name not in FILES or path.is_dir() or path.is_symlink()]
    if found and not foreign and not _is_timm_config(folder / CONFIG_NAME):
        foreign = [CONFIG_NAME if (folder / CONFIG_NAME).exists() else found[0].name]
    return sorted(foreign)


def _is_timm_config(path: Path) -> bool:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and {"architecture", "pretrained_cfg"} <= config.keys()


def load_model(source: str | Path, *, pretrained: bool = True, **kwargs: Any) -> nn.Module:
    """Call `timm.create_model`, check the sha256 of Hub weights, and raise errors that say what to do.

    Args:
        source: A folder, "hf-hub:ORG/NAME", "hf-hub:ORG/NAME@REVISION", "local-dir:FOLDER", or a registered name.
        pretrained: Whether to load the weights.
        **kwargs: Further arguments of `create_model`: num_classes, in_chans, features_only, …

    Raises:
        HubError: The model could not be loaded; the message says what to do.

    Example:
        >>> import timm_moex
        >>> timm_moex.load_model("resnet20_cifar.fmnist_sample").num_classes
        10
    """
    address = parse_address(source)
    # For a registered name, all arguments come from the caller; otherwise some come from config.json
    explain = reraise_as(HubError, f"{address.timm_name}: cannot be loaded") if address.source else nullcontext()
    with explain, translate_errors(address.timm_name):
        if address.source == "hf-hub" and pretrained:
            try:
                download_weights(address.place, address.revision, cache_dir=kwargs.get("cache_dir"))
            except EntryNotFoundError as error:  # no safetensors in the repo: timm tries other files
                if isinstance(error, LocalEntryNotFoundError):
                    raise
        model = timm.create_model(address.timm_name, pretrained=pretrained, **kwargs)
    cfg: Any = model.pretrained_cfg
    if wrong := preprocessing_problems(cfg):
        raise HubError(f"{address.timm_name}: {CONFIG_NAME}: pretrained_cfg: {'; '.join(wrong)}")
    count: Any = getattr(model, "num_classes", None)  # missing in a feature net
    if address.source and "num_classes" not in kwargs and count not in (None, cfg.get("num_classes")):
        stated = f"num_classes is {cfg.get('num_classes')}, but {count} in model_args"  # timm made a new classifier
        raise HubError(f"{address.timm_name}: {CONFIG_NAME}: {stated}")
    return model


def load_twin(source: str | Path, **settings: Any) -> nn.Module:
    """Load saved weights and insert MoEx, as `create_model("moex_…")` does for an architecture's own tags.

    Args:
        source: As for `load_model`.
        **settings: As for `insert_moex`: layer, norm, prob, lam, …

    Returns:
        The pretrained model with MoEx inserted.

    Raises:
        HubError: See `load_model`.

    Example:
        >>> import timm_moex
        >>> model = timm_moex.load_twin("resnet20_cifar.fmnist_sample", norm="in", prob=0.5)
        >>> timm_moex.find_moex(model).prob
        0.5
    """
    return insert_moex(load_model(source), **settings)
