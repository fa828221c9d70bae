"""This package's checkpoints as described in `weights/manifest.json`; `models/` adds them to timm's registry.

A checkpoint is a folder in the Hub's layout next to the manifest. If its weights are too large for the wheel, the
installed folder has no model.safetensors. Once they are published, the manifest names the repo and commit that have it.
An entry names a repo only after its owner has published it: anyone can claim an unused name and upload other weights.
"""

import json
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE as WEIGHTS

from ..utils.messages import short_repr
from .provenance import Provenance

__all__ = ["ReleasedWeights", "packaged_dir", "read_manifest", "released_weights", "weights_dir"]

MANIFEST = "manifest.json"
LARGEST_IN_WHEEL = 2_000_000  # bytes of model.safetensors; pyproject.toml leaves larger ones out of the wheel


@dataclass(frozen=True, kw_only=True)
class ReleasedWeights(Provenance):
    """One entry of the manifest.

    Attributes:
        name: "architecture.tag", which is also the folder's name.
        files: sha256 and size of each file in the folder, and of model.safetensors even if only the Hub has it.
        hub_id: "ORG/NAME" once published, else None.
        revision: The published commit of `hub_id`.
    """

    name: str
    architecture: str
    tag: str
    files: dict[str, dict[str, Any]]
    hub_id: str | None
    revision: str | None
    # provenance that every released checkpoint must state
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
            raise ValueError(f"name={self.name!r}: expected '{self.architecture}.{self.tag}' (architecture.tag)")
        if (self.hub_id is None) != (self.revision is None):
            raise ValueError(
                f"{self.name}: hub_id={self.hub_id!r}, revision={self.revision!r}: expected both or neither"
            )
        if set(self.top1) != {"value", "mean", "std"} or not self.seeds:
            raise ValueError(
                f"{self.name}: top1={self.top1}, seeds={self.seeds}: expected value, mean, std and at least one seed"
            )

    @property
    def is_too_large_for_the_wheel(self) -> bool:
        return self.files[WEIGHTS]["size"] > LARGEST_IN_WHEEL


_ONLY_IN_CARDS = {"recipe", "base_model", "origin", "results", "limits"}
# Types of an entry's values that are not strings
_KINDS: dict[str, Any] = {"files": dict, "top1": dict, "seeds": list, "baseline": (dict, NoneType)}
_KINDS |= dict.fromkeys(("hub_id", "revision"), (str, NoneType))
_REQUIRED = {field.name for field in fields(ReleasedWeights)} - _ONLY_IN_CARDS


def packaged_dir() -> Path:
    """Return the folder in which a wheel installs manifest and checkpoints; it does not exist in a checkout."""
    return Path(__file__).resolve().parents[1] / "_weights"


def weights_dir() -> Path:
    """Return the folder of the manifest: inside an installed package, or next to it in a checkout."""
    checkout = Path(__file__).parents[2]
    return checkout / "weights" if (checkout / "pyproject.toml").is_file() else packaged_dir()


def read_manifest(path: str | Path) -> list[ReleasedWeights]:
    """Read the entries of a manifest.

    Raises:
        ValueError: The file is not JSON, an entry has missing or unknown keys, or an entry contradicts itself.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))["checkpoints"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not a manifest: {error!r}") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} is not a manifest: checkpoints is {short_repr(rows)}, not a list")
    for row in rows:
        _check_row(path, row)
    return [ReleasedWeights(**row) for row in rows]


def _check_row(path: str | Path, row: Any) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"{path}: entry {short_repr(row)} is not a mapping")
    if set(row) != _REQUIRED:
        wrong = ", ".join(sorted(set(row) ^ _REQUIRED))
        raise ValueError(f"{path}: entry {short_repr(row.get('name'))} has missing or unknown keys: {wrong}")
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
            f"{path}: entry {row['name']!r}: top1, baseline and seeds must be numbers, got {short_repr(numbers)}"
        )


@cache
def released_weights() -> dict[str, ReleasedWeights]:
    """Return the package's own checkpoints by name; empty if it was installed without them."""
    path = weights_dir() / MANIFEST
    return {entry.name: entry for entry in read_manifest(path)} if path.is_file() else {}
