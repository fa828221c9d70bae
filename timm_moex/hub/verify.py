"""Whether a folder is what it says: hashes, tensors, config and card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.models import is_model

from ..utils.names import TWIN_PREFIX, is_twin_name
from ..utils.spelling import nearest
from .card import read_front_matter
from .download import WEIGHTS, sha256_of
from .manifest import MANIFEST, ReleasedWeights, read_manifest, released_weights, weights_dir

__all__ = ["FILES", "find_released", "verify_all", "verify_folder"]

# All that a folder may hold
FILES = (WEIGHTS, "config.json", "README.md", "summary.csv", "recipe.yaml", "LICENSE")
_NEEDED = FILES[:3]


def verify_folder(folder: str | Path, entry: ReleasedWeights | None = None) -> list[str]:
    """Look for everything that is wrong with a folder.

    Args:
        folder: In the Hub's layout, as `save_folder` writes it.
        entry: What the manifest says of it, if it does.

    Returns:
        What is wrong, a line each; empty if nothing is.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [f"{folder} is no folder"]
    found = sorted(path.name for path in folder.iterdir())
    problems = [f"{name} does not belong here (only {', '.join(FILES)} do)" for name in found if name not in FILES]
    remote = entry is not None and entry.hub_id is not None and WEIGHTS not in found  # too large to be shipped
    needed = [name for name in _NEEDED if not (remote and name == WEIGHTS)]
    missing = [f"{name} is missing" for name in needed if name not in found]
    if missing:
        return problems + missing
    config = _config(folder / "config.json")
    if isinstance(config, str):
        return [*problems, config]
    problems += _weights_problems(folder) if not remote else []
    problems += _card_problems((folder / "README.md").read_text(), entry)
    return problems + (_entry_problems(folder, config, entry) if entry else [])


def _config(path: Path) -> dict[str, Any] | str:
    """The config, or what is wrong with it."""
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        return f"config.json is not JSON: {error}"
    missing = [key for key in ("architecture", "num_classes", "pretrained_cfg") if key not in config]
    if missing:
        return f"config.json has no {', '.join(missing)}"
    name = config["architecture"]
    if not is_model(name):
        return f"config.json: architecture {name!r} is not registered{nearest(name, timm.list_models())}"
    if is_twin_name(name) or any(key.startswith(TWIN_PREFIX) for key in config.get("model_args", {})):
        return "config.json names a twin or MoEx settings; the stock architecture belongs there, so that timm loads it"
    return config


def _weights_problems(folder: Path) -> list[str]:
    try:
        expected = timm.create_model(f"local-dir:{folder}", pretrained=False).state_dict()
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        return [f"config.json: timm cannot build it: {error}"]
    problems = []
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            names = set(file.keys())
            problems += [f"{WEIGHTS} lacks {name}" for name in expected if name not in names]
            problems += [f"{WEIGHTS} has {name}, for which the model has no place" for name in names - expected.keys()]
            for name in names & expected.keys():
                tensor = file.get_tensor(name)
                if tensor.shape != expected[name].shape:
                    shapes = f"{tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
                    problems.append(f"{WEIGHTS}: {name} has shape {shapes}")
                elif tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    problems.append(f"{WEIGHTS}: {name} is not finite")
    except SafetensorError as error:
        return [f"{WEIGHTS} is truncated or corrupt: {error}"]
    return sorted(problems)


def _card_problems(card: str, entry: ReleasedWeights | None) -> list[str]:
    try:
        data = read_front_matter(card)
    except ValueError as error:
        return [f"README.md: {error}"]
    wanted = {"library_name": "timm", "pipeline_tag": "image-classification"}
    wanted |= {"license": entry.license} if entry else {}
    problems = [f"README.md: {k} is {data.get(k)!r}, not {v!r}" for k, v in wanted.items() if data.get(k) != v]
    if "moex" not in (data.get("tags") or ()):
        problems.append("README.md: moex is not among the tags")
    stated = [m["value"] for i in data.get("model-index", ()) for r in i["results"] for m in r["metrics"]]
    if entry and stated != [entry.top1["value"]]:
        problems.append(f"README.md: model-index says {stated}, the manifest top-1 {entry.top1['value']}")
    return problems


def _entry_problems(folder: Path, config: Mapping[str, Any], entry: ReleasedWeights) -> list[str]:
    problems = []
    if config["architecture"] != entry.architecture:
        problems.append(f"config.json is of {config['architecture']}, the manifest of {entry.architecture}")
    found = {path.name for path in folder.iterdir()}
    problems += [f"{name} is not in the manifest" for name in sorted(found - entry.files.keys())]
    for name, stated in entry.files.items():
        if name not in found:
            problems += [] if name == WEIGHTS and entry.hub_id else [f"{name} is in the manifest alone"]
            continue
        size, sha256 = (folder / name).stat().st_size, sha256_of(folder / name)
        if (size, sha256) != (stated["size"], stated["sha256"]):
            told = f"the manifest says {stated['size']} and {stated['sha256']}"
            problems.append(f"{name} has {size} bytes and sha256 {sha256}, {told}")
    return problems


def find_released(folder: str | Path) -> tuple[Path, ReleasedWeights] | None:
    """The manifest next to `folder` and its entry for it; None if there is none."""
    folder = Path(folder).resolve()
    manifest = folder.parent / MANIFEST
    if not manifest.is_file():
        return None
    return next(((manifest, entry) for entry in read_manifest(manifest) if entry.name == folder.name), None)


def verify_all() -> dict[str, list[str]]:
    """Problems of each checkpoint of this package by name; and of folders that the manifest does not know."""
    root = weights_dir()
    problems = {name: verify_folder(root / name, entry) for name, entry in released_weights().items()}
    strangers = [path.name for path in root.iterdir() if path.is_dir() and path.name not in problems]
    return problems | {name: ["not in the manifest"] for name in strangers}
