"""The checkpoints this package knows: `weights/manifest.json`, and how they enter timm's registry.

A checkpoint is a folder in the Hub's layout next to the manifest. Where its weights are too large for the wheel, the
installed folder lacks model.safetensors, and the manifest names the repo and commit that have it once they are
published. Only what its owner has published has a repo there: an unclaimed name is an open door for someone else's
weights.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

import timm
from timm.models import DefaultCfg, PretrainedCfg, resolve_pretrained_cfg

from ..utils.files import sha256_of
from ..utils.messages import short_repr
from ..utils.names import stock_name
from .download import WEIGHTS, HubError, download_weights, translate_errors
from .provenance import Provenance

__all__ = [
    "ReleasedWeights",
    "add_released_tags",
    "generate_default_cfgs",
    "packaged_dir",
    "read_manifest",
    "released_weights",
    "resolve_verified_cfg",
    "weights_dir",
]

MANIFEST = "manifest.json"
LARGEST_IN_WHEEL = 2_000_000  # bytes of model.safetensors; pyproject.toml leaves larger ones out of the wheel


@dataclass(frozen=True, kw_only=True)
class ReleasedWeights(Provenance):
    """One entry of the manifest.

    Attributes:
        name: "architecture.tag", which is also the folder's name.
        files: sha256 and size of each file in the folder, and of model.safetensors where only the Hub has it.
        hub_id: "ORG/NAME" once published, else None.
        revision: The commit in `hub_id`.
    """

    name: str
    architecture: str
    tag: str
    files: dict[str, dict[str, Any]]
    hub_id: str | None
    revision: str | None
    # of the provenance, what no released checkpoint may lack
    dataset: str
    split: str
    top1: dict[str, float]
    seeds: list[int]
    baseline: dict[str, float] | None
    command: str
    commit: str
    device: str
    date: str
    license: str

    def __post_init__(self) -> None:
        if self.name != f"{self.architecture}.{self.tag}":
            raise ValueError(f"name={self.name!r}: 'architecture.tag' is {self.architecture}.{self.tag}")
        if (self.hub_id is None) != (self.revision is None):
            raise ValueError(f"{self.name}: hub_id={self.hub_id!r} and revision={self.revision!r} go together")
        if set(self.top1) != {"value", "mean", "std"} or not self.seeds:
            raise ValueError(f"{self.name}: top1 has value, mean and std over the seeds, got {self.top1}, {self.seeds}")

    @property
    def is_too_large_for_the_wheel(self) -> bool:
        return self.files[WEIGHTS]["size"] > LARGEST_IN_WHEEL


_ONLY_IN_CARDS = {"recipe", "base_model", "origin", "results", "limits"}
# What an entry's keys hold, where it is not a text
_KINDS: dict[str, Any] = {"files": dict, "top1": dict, "seeds": list, "baseline": (dict, NoneType)}
_KINDS |= dict.fromkeys(("hub_id", "revision"), (str, NoneType))
_REQUIRED = {field.name for field in fields(ReleasedWeights)} - _ONLY_IN_CARDS


def packaged_dir() -> Path:
    """Where the wheel puts manifest and checkpoints; a checkout has no such folder."""
    return Path(__file__).resolve().parents[1] / "_weights"


def weights_dir() -> Path:
    """Folder of the manifest: inside an installed package, or next to it in a checkout."""
    checkout = Path(__file__).parents[2]
    return checkout / "weights" if (checkout / "pyproject.toml").is_file() else packaged_dir()


def read_manifest(path: str | Path) -> list[ReleasedWeights]:
    """The entries of a manifest.

    Raises:
        ValueError: It is not JSON, an entry has a key too many or too few, or an entry contradicts itself.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))["checkpoints"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no manifest: {error!r}") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} is no manifest: checkpoints is {short_repr(rows)}, not a list")
    for row in rows:
        _check_row(path, row)
    return [ReleasedWeights(**row) for row in rows]


def _check_row(path: str | Path, row: Any) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"{path}: entry {short_repr(row)} is not a mapping")
    if set(row) != _REQUIRED:
        wrong = ", ".join(sorted(set(row) ^ _REQUIRED))
        raise ValueError(f"{path}: entry {short_repr(row.get('name'))} lacks, or has without reason: {wrong}")
    for key, value in row.items():
        if not isinstance(value, _KINDS.get(key, str)):
            raise ValueError(f"{path}: entry {short_repr(row['name'])}: {key} is {short_repr(value)}")
    for name, stated in row["files"].items():
        if not isinstance(stated, dict) or not isinstance(stated.get("sha256"), str):
            raise ValueError(
                f"{path}: entry {row['name']!r}: files: {name} has {short_repr(stated)}, not sha256 and size"
            )
    numbers = [*row["top1"].values(), *(row["baseline"] or {}).values(), *row["seeds"]]
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise ValueError(
            f"{path}: entry {row['name']!r}: top1, baseline and seeds hold {short_repr(numbers)}, not numbers"
        )


@cache
def released_weights() -> dict[str, ReleasedWeights]:
    """The package's own checkpoints by name; none where it was installed without them."""
    path = weights_dir() / MANIFEST
    return {entry.name: entry for entry in read_manifest(path)} if path.is_file() else {}


def generate_default_cfgs(cfgs: dict[str, dict[str, Any] | PretrainedCfg]) -> dict[str, DefaultCfg]:
    """timm's function of that name, with the tags of this package's checkpoints added."""
    default_cfgs = timm.models.generate_default_cfgs(cfgs)
    add_released_tags(default_cfgs)
    return default_cfgs


def add_released_tags(default_cfgs: Mapping[str, DefaultCfg]) -> None:
    """Add the tags of this package's checkpoints to a model module's `default_cfgs`, before its models are registered.

    The architecture's default stays what it is: a tag of ours has to be asked for.
    """
    for entry in released_weights().values():
        default_cfg = default_cfgs.get(entry.architecture)
        if default_cfg is not None and entry.tag not in default_cfg.cfgs:
            default_cfg.tags.append(entry.tag)
            default_cfg.cfgs[entry.tag] = _cfg_of(entry)
            default_cfg.is_pretrained |= bool(default_cfg.cfgs[entry.tag].has_weights)


def _cfg_of(entry: ReleasedWeights) -> PretrainedCfg:
    folder = weights_dir() / entry.name
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    known = {field.name for field in fields(PretrainedCfg)}  # another timm may have written more
    cfg = {key: value for key, value in config["pretrained_cfg"].items() if key in known}
    cfg |= {"architecture": entry.architecture, "tag": entry.tag, "license": entry.license}
    names = config.get("label_names")
    weights = folder / WEIGHTS
    source: dict[str, str] = {}
    if weights.is_file():
        source = {"file": str(weights)}
    elif entry.hub_id:
        source = {"hf_hub_id": f"{entry.hub_id}@{entry.revision}"}
    return PretrainedCfg(**cfg | source, label_names=tuple(names) if names else None)


def resolve_verified_cfg(variant: str, pretrained_cfg: Any = None, cache_dir: str | None = None) -> PretrainedCfg:
    """The resolved cfg; where its weights are among ours, they lie on this machine with the manifest's sha256.

    Args:
        variant: An architecture, or its twin.
        pretrained_cfg: As given to its entrypoint: a tag, a cfg, or None for the default.
        cache_dir: Of the Hub; None for the usual one.

    Raises:
        HubError: The sha256 differs (both are named), the download failed, or neither this installation nor the Hub
            has the weights.
    """
    cfg = resolve_pretrained_cfg(variant, pretrained_cfg)
    entry = released_weights().get(f"{stock_name(variant)}.{cfg.tag}")
    if entry is None or cfg.source:  # local-dir or hf-hub: not out of the registry
        return cfg
    expected = entry.files[WEIGHTS]["sha256"]
    if entry.hub_id and cfg.hf_hub_id == f"{entry.hub_id}@{entry.revision}" and not cfg.file:
        with translate_errors(f"hf-hub:{cfg.hf_hub_id}"):
            path = download_weights(entry.hub_id, entry.revision, expected, cache_dir)
        return replace(cfg, file=str(path))
    if not cfg.has_weights and cfg.state_dict is None:
        if not entry.is_too_large_for_the_wheel:
            raise HubError(f"{weights_dir() / entry.name} lacks {WEIGHTS}; reinstall the package")
        raise HubError(
            f"{entry.name}: its weights are too large for the wheel, and are not on the Hub yet. The repository and "
            f"the sdist have them: timm.create_model('local-dir:weights/{entry.name}', pretrained=True) in one of these"
        )
    ours = weights_dir() / entry.name / WEIGHTS
    if cfg.file == str(ours) and (found := sha256_of(ours)) != expected:
        raise HubError(f"{ours} has sha256 {found}, but the manifest has {expected}; reinstall the package")
    return cfg
