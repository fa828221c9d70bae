"""Check that the hashes, tensors, config and card of a folder are valid and consistent."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub.constants import CONFIG_NAME
from safetensors import SafetensorError, safe_open
from timm.models import is_model
from torch import Tensor

from ..utils.files import sha256_of
from ..utils.messages import did_you_mean, one_line, short_repr
from ..utils.names import TWIN_PREFIX, is_twin_name
from .card import parse_card
from .download import WEIGHTS
from .folder import FILES, README
from .manifest import MANIFEST, ReleasedWeights, packaged_dir, read_manifest, released_weights, weights_dir
from .preprocessing import preprocessing_problems

__all__ = ["find_released", "verify_all", "verify_folder"]

_NEEDED = FILES[:3]
_FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def verify_folder(folder: str | Path, entry: ReleasedWeights | None = None) -> list[str]:
    """Find everything that is wrong with a folder.

    Args:
        folder: A folder in the Hub's layout, as `save_folder` writes it.
        entry: The folder's entry in the manifest, if it has one.

    Returns:
        One line for each problem; empty if the folder is valid.

    Example:
        >>> verify_folder("no/such/folder")
        ['no/such/folder is not a folder']
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [f"{folder} is not a folder"]
    found = sorted(path.name for path in folder.iterdir())
    problems = [f"{name} does not belong here (only {', '.join(FILES)} do)" for name in found if name not in FILES]
    problems += [
        f"{path.name} is a link to {os.readlink(path)}, outside of the folder" for path in outside_links(folder)
    ]
    if problems:
        return problems
    remote = entry is not None and WEIGHTS not in found and _is_left_out(folder, entry)
    needed = [name for name in _NEEDED if not (remote and name == WEIGHTS)]
    missing = [f"{name} is missing" for name in needed if name not in found]
    if missing:
        return problems + missing
    config = _read_config(folder / CONFIG_NAME)
    if isinstance(config, str):
        return [*problems, config]
    problems += _weights_problems(folder) if not remote else []
    problems += _card_problems(folder / README, entry)
    return problems + (_entry_problems(folder, config, entry) if entry else [])


def _is_left_out(folder: Path, entry: ReleasedWeights) -> bool:
    """Return whether the weights may be missing: the Hub has them, or they are too large for the wheel."""
    return entry.hub_id is not None or (entry.is_too_large_for_the_wheel and folder.resolve().parent == packaged_dir())


def outside_links(folder: Path) -> list[Path]:
    """Find links that point outside of `folder`, except from a Hub cache's snapshot to its own blobs."""
    folder = Path(os.path.realpath(folder))
    allowed = [folder]
    if folder.parent.name == "snapshots":  # models--ORG--NAME/snapshots/REVISION, with files in models--ORG--NAME/blobs
        allowed.append(folder.parents[1] / "blobs")
    links = [path for path in sorted(folder.iterdir()) if path.is_symlink()]
    return [path for path in links if path.resolve().parent not in allowed]


def _read_config(path: Path) -> dict[str, Any] | str:
    """Return the config, or a message about what is wrong with it."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return f"config.json is not JSON: {error}"
    if not isinstance(config, dict):
        return f"config.json is a {type(config).__name__}, not a mapping"
    for key, kind in {"architecture": str, "num_classes": int, "pretrained_cfg": dict}.items():
        if not isinstance(config.get(key), kind):
            return f"config.json: {key} is {short_repr(config.get(key))}, not a {kind.__name__}"
    if not isinstance(config.get("model_args", {}), dict):
        return f"config.json: model_args is {short_repr(config['model_args'])}, not a dict"
    name = config["architecture"]
    if not is_model(name):
        return f"config.json: architecture {name!r} is not registered{did_you_mean(name, timm.list_models())}"
    if is_twin_name(name) or any(key.startswith(TWIN_PREFIX) for key in config.get("model_args", {})):
        return "config.json names a twin or MoEx settings; use the stock architecture, so that plain timm can load it"
    if wrong := preprocessing_problems(config["pretrained_cfg"]) + _class_problems(config):
        return f"config.json: {'; '.join(wrong)}"
    return config


def _class_problems(config: Mapping[str, Any]) -> list[str]:
    """Check that the class counts and class names agree."""
    count, problems = config["num_classes"], []
    for key in ("pretrained_cfg", "model_args"):
        other = config.get(key, {}).get("num_classes", count)
        if other != count:
            problems.append(f"num_classes is {count}, but {short_repr(other)} in {key}")
    names = config.get("label_names") or ()
    if not isinstance(names, (list, dict, tuple)) or names and len(names) != count:
        problems.append(f"label_names is {short_repr(names)}, not {count} names")
    return problems


def _weights_problems(folder: Path) -> list[str]:
    try:
        expected = timm.create_model(f"local-dir:{folder}", pretrained=False).state_dict()
    except Exception as error:  # any type: timm's constructors get whatever the file contains
        return [f"config.json: timm cannot build the model: {type(error).__name__}: {one_line(error)}"]
    problems = []
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            names = set(file.keys())
            # frozen batch norms lack this counter, and PyTorch does not require it
            needed = {name for name in expected if not name.endswith("num_batches_tracked")}
            problems += [f"{WEIGHTS} lacks {name}" for name in needed - names]
            problems += [f"{WEIGHTS} has {name}, which the model does not have" for name in names - expected.keys()]
            for name in names & expected.keys():
                if wrong := _tensor_problem(name, file.get_tensor(name), expected[name]):
                    problems.append(f"{WEIGHTS}: {name} {wrong}")
    except SafetensorError as error:
        return [f"{WEIGHTS} is truncated or corrupt: {error}"]
    return sorted(problems)


def _tensor_problem(name: str, found: Tensor, expected: Tensor) -> str | None:
    if found.shape != expected.shape:
        return f"has shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    kinds = _FLOATING if expected.is_floating_point() else (expected.dtype,)
    if found.dtype not in kinds:
        return f"has dtype {found.dtype}, not {' or '.join(map(str, kinds))}"
    if found.is_floating_point() and not torch.isfinite(found).all():
        return "is not finite"
    return "is negative" if name.endswith("running_var") and (found < 0).any() else None


def _card_problems(path: Path, entry: ReleasedWeights | None) -> list[str]:
    try:
        data = parse_card(path.read_text(encoding="utf-8")).data
    except (OSError, ValueError) as error:
        return [f"README.md: {error}"]
    wanted = {"library_name": "timm", "pipeline_tag": "image-classification"}
    wanted |= {"license": entry.license} if entry else {}
    problems = [f"README.md: {k} is {data.get(k)!r}, not {v!r}" for k, v in wanted.items() if data.get(k) != v]
    if "moex" not in (data.get("tags") or ()):
        problems.append("README.md: the tag moex is missing")
    stated = [result.metric_value for result in data.get("eval_results") or ()]
    if entry and stated != [entry.top1["value"]]:
        problems.append(f"README.md: model-index states {stated}, but the manifest states top-1 {entry.top1['value']}")
    return problems


def _entry_problems(folder: Path, config: Mapping[str, Any], entry: ReleasedWeights) -> list[str]:
    problems = []
    if config["architecture"] != entry.architecture:
        problems.append(f"config.json has architecture {config['architecture']}, the manifest {entry.architecture}")
    found = {path.name for path in folder.iterdir()}
    problems += [f"{name} is not in the manifest" for name in sorted(found - entry.files.keys())]
    for name, stated in entry.files.items():
        if name not in found:
            if name != WEIGHTS or not _is_left_out(folder, entry):
                problems.append(f"{name} is in the manifest, but not in the folder")
            continue
        size, sha256 = (folder / name).stat().st_size, sha256_of(folder / name)
        if (size, sha256) != (stated.get("size"), stated["sha256"]):
            expected = f"but the manifest states {stated.get('size')} and {stated['sha256']}"
            problems.append(f"{name} has {size} bytes and sha256 {sha256}, {expected}")
    return problems


def find_released(folder: str | Path) -> tuple[Path, ReleasedWeights] | None:
    """Find the manifest next to `folder` and the folder's entry in it; None if either is missing."""
    folder = Path(folder).resolve()
    manifest = folder.parent / MANIFEST
    if not manifest.is_file():
        return None
    return next(((manifest, entry) for entry in read_manifest(manifest) if entry.name == folder.name), None)


def verify_all() -> dict[str, list[str]]:
    """Return the problems of each checkpoint of this package by name, and of folders missing in the manifest."""
    root = weights_dir()
    problems = {name: verify_folder(root / name, entry) for name, entry in released_weights().items()}
    unlisted = [path.name for path in root.iterdir() if path.is_dir() and path.name not in problems]
    return problems | {name: ["not in the manifest"] for name in unlisted}
