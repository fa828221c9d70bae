"""This package's checkpoints as described in `weights/manifest.json`; `models/` adds them to timm's registry.

A checkpoint is a folder in the Hub's layout next to the manifest. If its weights are too large for the wheel, the
installed folder has no model.safetensors. Once they are published, the manifest names the repo and commit.
An entry names a repo only after its owner has published it: anyone can claim an unused name and upload other weights.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE as WEIGHTS

from ..utils.messages import did_you_mean, short_repr

__all__ = ["Provenance", "ReleasedWeights", "packaged_dir", "read_manifest", "released_weights", "weights_dir"]

MANIFEST = "manifest.json"
LARGEST_IN_WHEEL = 2_000_000  # bytes of model.safetensors; pyproject.toml leaves larger ones out of the wheel


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Provenance of a checkpoint. The card omits unknown facts.

    Attributes:
        dataset: The training data, as timm names it.
        split: The part of the data used for evaluation.
        top1: Top-1 in percent on `split`: `value` for these weights, `mean` and `std` over `seeds` (0 for one seed).
        seeds: Seeds of all runs in `mean` and `std`; the weights come from the first one.
        baseline: `mean` and `std` of the same recipe and seeds without MoEx; None if not run.
        command: The training command, or the name of the packaged recipe.
        recipe: Settings of the run; the card omits local paths.
        commit: Commit of this project's repository.
        device: Training hardware.
        date: Training date, "2026-01-31".
        license: SPDX identifier of the weights' licence.
        base_model: Hub id of the model whose weights the training started from.
        origin: A sentence on the source of the weights, if timm_moex did not train them with an exchange.
        results: The result as a sentence.
        limits: One or more sentences on what the weights are not suitable for.
    """

    dataset: str | None = None
    split: str | None = None
    top1: dict[str, float] | None = None
    seeds: list[int] | None = None
    baseline: dict[str, float] | None = None
    command: str | None = None
    recipe: dict[str, Any] | None = None
    commit: str | None = None
    device: str | None = None
    date: str | None = None
    license: str | None = None
    base_model: str | None = None
    origin: str | None = None
    results: str | None = None
    limits: str | list[str] | None = None

    @classmethod
    def of(cls, facts: "Provenance | Mapping[str, Any] | None") -> "Provenance":
        """Make a `Provenance` from a mapping with its attributes as keys.

        Raises:
            ValueError: A key is unknown.
        """
        if isinstance(facts, Provenance):
            return facts
        known = [field.name for field in fields(cls)]
        for key in facts or {}:
            if key not in known:
                raise ValueError(
                    f"card: unknown key {key!r}; expected one of {', '.join(known)}{did_you_mean(key, known)}"
                )
        return cls(**{key: value for key, value in (facts or {}).items() if value})


@dataclass(frozen=True, kw_only=True)
class ReleasedWeights:
    """One entry of the manifest; `Provenance` describes the attributes that are not listed.

    Attributes:
        name: "architecture.tag", which is also the folder's name.
        files: sha256 and size of each file in the folder, and of model.safetensors even if only the Hub has it.
        hub_id: "ORG/NAME" once published, else None.
        revision: The published commit of `hub_id`.
    """

    name: str
    architecture: str
    tag: str
    files: dict
    hub_id: str | None
    revision: str | None
    dataset: str
    split: str
    top1: dict
    seeds: list
    baseline: dict | None
    command: str
    commit: str
    device: str
    date: str
    license: str

    def __post_init__(self) -> None:
        if self.name != f"{self.architecture}.{self.tag}":
            raise ValueError(f"name={self.name!r}: expected '{self.architecture}.{self.tag}' (architecture.tag)")
        if (self.hub_id is None) != (self.revision is None):
            pin = f"hub_id={self.hub_id!r}, revision={self.revision!r}"
            raise ValueError(f"{self.name}: {pin}: expected both or neither")
        if set(self.top1) != {"value", "mean", "std"} or not self.seeds:
            result = f"top1={self.top1}, seeds={self.seeds}"
            raise ValueError(f"{self.name}: {result}: expected value, mean, std and at least one seed")

    @property
    def is_too_large_for_the_wheel(self) -> bool:
        return self.files[WEIGHTS]["size"] > LARGEST_IN_WHEEL


def packaged_dir() -> Path:
    """Return the folder in which a wheel installs manifest and checkpoints; a checkout does not have it."""
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
    entry = f"{path}: entry {short_repr(row.get('name'))}"
    kinds: dict[str, Any] = {field.name: field.type for field in fields(ReleasedWeights)}
    if row.keys() != kinds.keys():
        raise ValueError(f"{entry} has missing or unknown keys: {', '.join(sorted(row.keys() ^ kinds.keys()))}")
    for key, value in row.items():
        if not isinstance(value, kinds[key]):
            raise ValueError(f"{entry}: {key} is {short_repr(value)}")
    for name, stated in row["files"].items():
        if not isinstance(stated, dict) or not isinstance(stated.get("sha256"), str):
            raise ValueError(f"{entry}: files: {name} has {short_repr(stated)}, not sha256 and size")
    numbers = [*row["top1"].values(), *(row["baseline"] or {}).values(), *row["seeds"]]
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise ValueError(f"{entry}: top1, baseline and seeds must be numbers, got {short_repr(numbers)}")


@cache
def released_weights() -> dict[str, ReleasedWeights]:
    """Return the package's own checkpoints by name; empty if it was installed without them."""
    path = weights_dir() / MANIFEST
    return {entry.name: entry for entry in read_manifest(path)} if path.is_file() else {}
