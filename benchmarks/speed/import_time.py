"""Measure what timm_moex adds to `import timm` and `create_model`: `python -m benchmarks.speed.import_time`.

Times are CPU seconds of the process, which other jobs on the machine affect less. Imports are measured in fresh
processes that take turns, and also within one process: `import timm`, then what `import timm_moex` adds. Models are
created in turns in one process. The ratio is the median of the paired ratios; `ratio_of_minima` compares the fastest
runs.
"""

import argparse
import csv
import platform
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import timm
import torch

import timm_moex

from .._results import RESULTS, environment

ARCHS = (
    "resnet18",
    "resnet50",
    "densenet121",
    "efficientnet_b0",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
    "vit_tiny_patch16_224",
)
FRESH = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"
WITHIN = """
import time; start = time.process_time(); import timm; middle = time.process_time(); import timm_moex
print(middle - start, time.process_time() - start)
"""
Pairs = list[tuple[float, float]]


def output_of(code: str) -> list[float]:
    """Return the numbers that `code` prints in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return [float(word) for word in done.stdout.split()]


def import_pairs(runs: int) -> dict[str, Pairs]:
    """Return (seconds for timm, seconds for timm_moex) of every run."""
    output_of(WITHIN)  # warms the file cache
    fresh = [{}, {}]
    for n in range(2 * runs):
        module = ("timm", "timm_moex", "timm_moex", "timm")[n % 4]
        fresh[module == "timm_moex"][n // 2] = output_of(FRESH.format(module))[0]
    return {
        "import, fresh processes": list(zip(fresh[0].values(), fresh[1].values())),
        "import, within a process": [tuple(output_of(WITHIN)) for _ in range(runs)],
    }


def seconds_to_create(name: str, device: str) -> float:
    start = time.process_time()
    with torch.device(device):
        timm.create_model(name)
    return time.process_time() - start


def creation_pairs(arch: str, device: str, runs: int) -> Pairs:
    """Return (seconds for the backbone, seconds for its twin) of every run."""
    for name in (arch, f"moex_{arch}"):
        seconds_to_create(name, device)
    return [(seconds_to_create(arch, device), seconds_to_create(f"moex_{arch}", device)) for _ in range(runs)]


def row(what: str, device: str, goal: float, pairs: Pairs) -> dict:
    timms, ours = zip(*pairs)
    return dict(
        what=what,
        device=device,
        runs=len(pairs),
        timm_s=round(statistics.median(timms), 4),
        timm_moex_s=round(statistics.median(ours), 4),
        ratio=round(statistics.median(b / a for a, b in pairs), 3),
        ratio_of_minima=round(min(ours) / min(timms), 3),
        goal=goal,
        timm=timm.__version__,
        timm_moex=timm_moex.__version__,
        torch=torch.__version__,
        python=platform.python_version(),
        machine=platform.machine(),
        commit=environment(torch.device("cpu"), "timm_moex")["commit"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS / "import_time.csv")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [row(what, "cpu", 1.03, pairs) for what, pairs in import_pairs(args.runs).items()]
    for device in ("meta", "cpu"):
        rows += [row(f"create {arch}", device, 1.05, creation_pairs(arch, device, args.runs)) for arch in ARCHS]
    with args.output.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    for line in rows:
        print(f"{line['what']:40} {line['device']:5} {line['ratio']:.3f} (minima {line['ratio_of_minima']:.3f})")


if __name__ == "__main__":
    main()
