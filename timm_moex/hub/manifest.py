"""The checkpoints of this package, as `weights/manifest.json` describes them. They enter timm's registry in `models/`.

A checkpoint is a folder in the Hub's layout next to the manifest. Where its weights are too large for the wheel, the
installed folder lacks model.safetensors, and the manifest names the repo and commit that have it once they are
published. Only what its owner has published has a repo there: an unclaimed name is an open door for someone else's
weights.
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
