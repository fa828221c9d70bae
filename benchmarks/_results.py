"""CSV files of the benchmarks, with the environment in which each figure was measured."""

import csv
import os
import platform
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def environment(device: torch.device, *code: str) -> dict[str, str]:
    """Name the device, threads, versions and commit, as columns of a CSV.

    Args:
        device: The device measured on.
        *code: Files under test, relative to the repository; default: the operator's.
    """
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": device.type,
        "processor": processor,
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
        "commit": _commit(code or ("timm_moex/exchange",)),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _commit(code: tuple[str, ...]) -> str:
    """Return the short hash, followed by + if the code under test has uncommitted changes.

    If the files were copied to another machine without the repository, set TIMM_MOEX_COMMIT to their commit.
    """
    if not (ROOT / ".git").exists():
        return os.environ.get("TIMM_MOEX_COMMIT", "")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *code], cwd=ROOT)
    return commit.stdout.strip() + "+" * changed.returncode if commit.returncode == 0 else ""


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()


def read_rows(name: str, folder: Path = RESULTS) -> list[dict[str, str]]:
    path = folder / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def grouped(rows: Sequence[dict], *keys: str) -> dict[tuple[str, ...], list[dict]]:
    """Group rows by their values of `keys`, in the order of first appearance."""
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(row)
    return dict(groups)


def write_rows(name: str, rows: list[dict], device: torch.device, folder: Path) -> None:
    """Write `<folder>/<name>.csv`, replacing all earlier rows of the same kind of device."""
    rows = [row | environment(device) for row in rows]
    others = [row for row in read_rows(name, folder) if row["device"] != device.type]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(others + rows)


def append_rows(table: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Append rows to a CSV, which is created with their columns if it does not exist.

    Raises:
        ValueError: The CSV has other columns.
    """
    if not rows:
        return
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("a+", newline="") as file:
        file.seek(0)
        header = next(csv.reader(file), None)
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if header is None:
            writer.writeheader()
        elif header != list(rows[0]):
            raise ValueError(f"{table} has the columns {header}, the new row has {list(rows[0])}")
        writer.writerows(rows)
