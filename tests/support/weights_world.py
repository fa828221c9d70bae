"""Manifest entries for folders that tests create."""

import hashlib
from pathlib import Path
from typing import Any

from hub_folders import TOP1


def manifest_row(folder: Path, **changes: Any) -> dict[str, Any]:
    """A valid entry for a folder named architecture.tag, written by `write_folder`."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hashes = {n: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for n, content in files.items()}
    architecture, _, tag = folder.name.partition(".")
    row = dict(name=folder.name, architecture=architecture, tag=tag, files=hashes, command="quickstart")
    row |= dict(commit="0" * 40, seeds=[0, 1, 2], dataset="torch/cifar10", split="test", top1=TOP1, baseline=None)
    row |= dict(hub_id=None, revision=None, license="mit", date="2026-01-01", device="cpu")
    return row | changes
