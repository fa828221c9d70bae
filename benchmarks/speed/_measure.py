"""Interleaved timing and command-line options, shared by the speed benchmarks."""

import argparse
import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from .._results import RESULTS

WARM_UP, MIN_ROUNDS = 2, 5
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def arguments(doc: str) -> argparse.ArgumentParser:
    """Create a parser with the options that all speed benchmarks share."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seconds", type=float, default=3.0, help="time per case, for at least five rounds")
    parser.add_argument("--threads", type=int, help="threads of PyTorch on the CPU")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="on the CPU: wall time, or cpu, the processor time of this process, if other jobs share the machine",
    )
    parser.add_argument(
        "--output", type=Path, default=RESULTS, metavar="FOLDER", help="folder of the CSV; default: %(default)s"
    )
    return parser


def set_up(options: argparse.Namespace) -> torch.device:
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = options.device.startswith("cuda")  # as timm's train.py
    return torch.device(options.device)


def keep_freed_memory(keep: bool) -> None:
    """Let glibc reuse large freed blocks (`keep`), or return them to the system at once, its default above 32 MB.

    By default every new tensor of 50 MB causes page faults, which on a virtual machine cost as much as many copies of
    it. Training jobs avoid them with tcmalloc or jemalloc. This function has the same effect for all contenders.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        m_trim_threshold, m_mmap_max = -1, -4
        libc.mallopt(m_mmap_max, 0 if keep else 65536)
        libc.mallopt(m_trim_threshold, 2**31 - 1 if keep else 128 * 1024)


def _seconds(function: Callable[[], object], device: torch.device, clock: str) -> float:
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1000
    start = CLOCKS[clock]()
    function()
    return CLOCKS[clock]() - start


def measure(contenders: dict, device: torch.device, seconds: float, clock: str = "wall") -> list[dict]:
    """Time all contenders in turn, round after round, and compare each with the first one of the same round.

    Args:
        contenders: Name to function without arguments; the first is the unit of the ratios.
        device: Device that they run on.
        seconds: Time to spend; at least `MIN_ROUNDS` rounds are run.
        clock: "wall" or "cpu".

    Returns:
        Per contender: `contender`, `clock`, `rounds`, `ms_20`, `ms_50`, `ms_80`, `ratio_20`, `ratio_50`, `ratio_80`
        and `ratio_min`, the ratio of the fastest runs, which other jobs on the machine affect least.
    """
    for function in contenders.values():
        for _ in range(WARM_UP):
            function()
    times: dict = {name: [] for name in contenders}
    end = time.perf_counter() + seconds
    while min(map(len, times.values())) < MIN_ROUNDS or time.perf_counter() < end:
        for name, function in contenders.items():
            times[name].append(_seconds(function, device, clock))
    unit = torch.tensor(next(iter(times.values())), dtype=torch.float64)
    at = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    rows = []
    for name, values in times.items():
        values = torch.tensor(values, dtype=torch.float64)
        row = {"contender": name, "clock": clock, "rounds": len(values)}
        for label, numbers in (("ms", values * 1000), ("ratio", values / unit)):
            for quantile, number in zip((20, 50, 80), numbers.quantile(at).tolist()):
                row[f"{label}_{quantile}"] = f"{number:.4g}"
        row["ratio_min"] = f"{(values.min() / unit.min()).item():.4g}"
        rows.append(row)
    return rows


def print_rows(rows: list[dict], *columns: str) -> None:
    for row in rows:
        print("  ".join(f"{row[column]:>12}" for column in columns), flush=True)
