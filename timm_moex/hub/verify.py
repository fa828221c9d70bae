"""Check that the hashes, tensors, config and card of a folder are valid and consistent."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub.constants import CONFIG_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import is_model
from torch import Tensor

from ..utils.files import sha256_of
from ..utils.messages import did_you_mean, one_line, short_repr
from ..utils.names import is_twin_name
from .card import parse_card
from .config import preprocessing_problems
from .download import WEIGHTS
from .folder import FILES, README
from .manifest import MANIFEST, ReleasedWeights, packaged_dir, read_manifest, released_weights, weights_dir

__all__ = ["find_released", "verify_all", "verify_folder"]

_FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def verify_folder(folder: str | Path, entry: ReleasedWeights | None = None) -> list[str]:
    """Find everything that is wrong with a folder; `entry` is its entry in the manifest, if it has one.

    Returns:
        One line for each problem; empty if the folder is valid.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [f"{folder} is not a folder"]
    found = {path.name for path in folder.iterdir()}
    problems = [f"{name} does not belong here (only {', '.join(FILES)} do)" for name in sorted(found - {*FILES})]
    problems += [f"{path.name} is a link to {os.readlink(path)}, outside the folder" for path in _links(folder)]
    if problems:
        return problems
    left_out = {WEIGHTS} if entry and WEIGHTS not in found and _is_left_out(folder, entry) else set()
    if missing := [f"{name} is missing" for name in FILES[:3] if name not in found | left_out]:
        return missing
    try:
        config = _read_config(folder / CONFIG_NAME)
    except ValueError as error:
        return [str(error)]
    problems = [] if left_out else _weights_problems(folder)
    problems += _card_problems(folder / README, entry)
    return problems + (_entry_problems(folder, config, entry) if entry else [])


def _is_left_out(folder: Path, entry: ReleasedWeights) -> bool:
    """Return whether the weights may be missing: the Hub has them, or they are too large for the wheel."""
    return entry.hub_id is not None or (entry.is_too_large_for_the_wheel and folder.resolve().parent == packaged_dir())


def _links(folder: Path) -> list[Path]:
    """Find links that point outside of `folder`, except from a Hub cache's snapshot to its own blobs."""
    folder = Path(os.path.realpath(folder))
    allowed = [folder]
    if folder.parent.name == "snapshots":  # models--ORG--NAME/snapshots/REVISION, with files in models--ORG--NAME/blobs
        allowed.append(folder.parents[1] / "blobs")
    links = [path for path in sorted(folder.iterdir()) if path.is_symlink()]
    return [path for path in links if path.resolve().parent not in allowed]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"config.json is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"config.json is a {type(config).__name__}, not a mapping")
    config.setdefault("model_args", {})
    kinds = {"architecture": str, "num_classes": int, "pretrained_cfg": dict, "model_args": dict}
    for key, kind in kinds.items():
        if not isinstance(config.get(key), kind):
            raise ValueError(f"config.json: {key} is {short_repr(config.get(key))}, not a {kind.__name__}")
    name = config["architecture"]
    if not is_model(name):
        hint = did_you_mean(name, timm.list_models())
        raise ValueError(f"config.json: architecture {name!r} is not registered{hint}")
    if any(map(is_twin_name, [name, *config["model_args"]])):
        raise ValueError("config.json names a twin or MoEx settings; plain timm can load only the stock architecture")
    if wrong := preprocessing_problems(config["pretrained_cfg"]) + _class_problems(config):
        raise ValueError(f"config.json: {'; '.join(wrong)}")
    return config


def _class_problems(config: Mapping[str, Any]) -> list[str]:
    """Check that the class counts and class names agree."""
    count = config["num_classes"]
    others = {key: config[key].get("num_classes", count) for key in ("pretrained_cfg", "model_args")}
    problems = [f"num_classes is {count}, but {short_repr(n)} in {key}" for key, n in others.items() if n != count]
    names = config.get("label_names") or []
    if not isinstance(names, (list, dict)) or len(names) not in (0, count):
        problems.append(f"label_names is {short_repr(names)}, not {count} names")
    return problems


def _weights_problems(folder: Path) -> list[str]:
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=False)
    except Exception as error:  # any type: timm's constructors get whatever the file contains
        return [f"config.json: timm cannot build the model: {type(error).__name__}: {one_line(error)}"]
    try:
        weights = load_file(folder / WEIGHTS)
        model.load_state_dict(weights)
    except SafetensorError as error:
        return [f"{WEIGHTS} is truncated or corrupt: {error}"]
    except RuntimeError as error:
        return [f"{WEIGHTS}: {one_line(error)}"]
    expected = model.state_dict()
    problems = {name: _tensor_problem(name, tensor, expected[name].dtype) for name, tensor in sorted(weights.items())}
    return [f"{WEIGHTS}: {name} {problem}" for name, problem in problems.items() if problem]


def _tensor_problem(name: str, tensor: Tensor, expected: torch.dtype) -> str | None:
    dtypes = _FLOATING if expected.is_floating_point else (expected,)
    if tensor.dtype not in dtypes:
        return f"has dtype {tensor.dtype}, not {' or '.join(map(str, dtypes))}"
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        return "is not finite"
    return "is negative" if name.endswith("running_var") and (tensor < 0).any() else None


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
    problems += [f"{name} is in the manifest, but not in the folder" for name in entry.files.keys() - found - {WEIGHTS}]
    for name in sorted(found & entry.files.keys()):
        stated, size, sha256 = entry.files[name], (folder / name).stat().st_size, sha256_of(folder / name)
        if (size, sha256) != (stated.get("size"), stated["sha256"]):
            expected = f"but the manifest states {stated.get('size')} and {stated['sha256']}"
            problems.append(f"{name} has {size} bytes and sha256 {sha256}, {expected}")
    return problems


def find_released(folder: str | Path) -> ReleasedWeights | None:
    """Find the folder's entry in the manifest next to it, if there is one."""
    folder = Path(folder).resolve()
    manifest = folder.parent / MANIFEST
    entries = read_manifest(manifest) if manifest.is_file() else []
    return next((entry for entry in entries if entry.name == folder.name), None)


def verify_all() -> dict[str, list[str]]:
    """Return the problems of each checkpoint of this package by name, and of folders missing in the manifest."""
    root = weights_dir()
    problems = {name: verify_folder(root / name, entry) for name, entry in released_weights().items()}
    unlisted = [path.name for path in root.iterdir() if path.is_dir() and path.name not in problems]
    return problems | {name: ["not in the manifest"] for name in unlisted}
