"""The processes of a training run started by torchrun: their ranks, and how they communicate.

DistributedDataParallel exchanges the gradients. This module does the rest: it calls timm's `init_distributed_device` at
the start, gathers metrics in each epoch, and raises an error if another process has ended.
"""

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from timm.utils import init_distributed_device
from timm.utils.distributed import is_distributed_env, world_info_from_env

from ..utils.devices import pick_device
from ..utils.messages import one_line

__all__ = ["DisagreementError", "ProcessError", "Processes", "is_alone", "is_first_process", "join_processes"]

T = TypeVar("T")
_RANK_VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


@dataclass(frozen=True)
class Processes:
    """The processes of a training run, seen from one of them. The first one writes files and reports."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def gather(self, value: T, error: BaseException | None = None) -> list[T]:
        """Return every process's value, which must be picklable, in the order of ranks; all processes must call this.

        A process that cannot continue gives its `error`; the others then raise a `ProcessError` that contains it.
        """
        if self.count == 1:
            return [value]
        told: list[Any] = [None] * self.count
        dist.all_gather_object(told, (value, None if error is None else f"{type(error).__name__}: {one_line(error)}"))
        failed = [f"process {rank}: {why}" for rank, (_, why) in enumerate(told) if why]
        if failed and error is None:
            raise ProcessError(f"another process of this run has failed: {'; '.join(failed)}")
        return [value for value, _ in told]

    @contextmanager
    def together(self) -> Iterator[None]:
        """End all processes if the body fails in one of them, even if the others are waiting for it in the body."""
        try:
            yield
        except ProcessError:  # the others already have it
            raise
        except Exception as error:
            self.gather(None, error)
            raise
        self.gather(None)

    def agree(self, values: Mapping[str, Any]) -> None:
        """Compare settings with the other processes; all must call this, and all raise an error if values differ."""
        told = self.gather({key: repr(value) for key, value in values.items()})
        names = dict.fromkeys(key for process in told for key in process)
        found = {key: [process.get(key, "nothing") for process in told] for key in names}
        differ = [f"{key}: {_by_process(values)}" for key, values in found.items() if len(set(values)) > 1]
        if differ:
            raise DisagreementError(f"the processes of this run disagree: {'; '.join(differ)}")

    def share_of(self, samples: int) -> int:
        """Count how many of `samples` this process gets if each takes every `count`-th sample, starting at its rank."""
        return len(range(self.rank, samples, self.count))

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run the body in the first process, then in the others, which find what the first has downloaded."""
        if not self.is_first:
            self.gather(None)
        yield
        if self.is_first:
            self.gather(None)


class ProcessError(ConnectionError):
    """Another process of this run has failed, and all processes have been told."""


class DisagreementError(ProcessError, ValueError):
    """The processes of a run have different settings or data; all of them raise this error."""


def _by_process(values: list[str]) -> str:
    """List the different values, each with the ranks of up to eight processes that have it."""
    parts = []
    for value in dict.fromkeys(values):
        ranks = [str(rank) for rank, other in enumerate(values) if other == value]
        some = ", ".join(ranks[:8]) + (", …" if len(ranks) > 8 else "")
        parts.append(f"{value[:200]} in process{'es' if len(ranks) > 1 else ''} {some}")
    return ", ".join(parts)


def is_alone() -> bool:
    """Return whether this process is the only one of its run, according to its environment variables."""
    try:
        _check_environment()
    except ValueError:  # `join_processes` raises it
        return True
    return not is_distributed_env()


def _check_environment() -> None:
    """Check the variables from which timm reads the rank and the number of processes."""
    for name in _RANK_VARIABLES:
        if not os.environ.get(name, "0").isdecimal():
            raise ValueError(f"environment variable {name}={os.environ[name]!r}: expected an integer >= 0")
    _, rank, count = world_info_from_env()
    if is_distributed_env() and rank >= count:
        raise ValueError(f"environment variable RANK={rank}: expected less than WORLD_SIZE={count}")


def is_first_process() -> bool:
    """Return whether this process reports, according to the environment variables of torchrun or SLURM."""
    return is_alone() or world_info_from_env()[1] == 0


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the other processes of a run if torchrun or SLURM started several, and leave them at the end.

    With several processes on GPUs, each uses the GPU of its local rank.
    """
    _check_environment()
    if is_alone():
        yield Processes(pick_device(device))
        return
    if dist.is_initialized():
        raise RuntimeError("a process group already exists, but the trainer creates its own; destroy it first")
    local_rank = world_info_from_env()[0]
    if torch.device(device).type == "cuda" and local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"device: {device!r}: local rank {local_rank} has no GPU ({torch.cuda.device_count()} available); start "
            "at most that many processes with torchrun --nproc-per-node, or use --device cpu"
        )
    args = argparse.Namespace(device=device)
    with _explaining():
        where = init_distributed_device(args)
        try:
            yield Processes(pick_device(str(where)), args.rank, args.world_size)
        finally:
            dist.destroy_process_group()


@contextmanager
def _explaining() -> Iterator[None]:
    """Turn a backend's error about a broken connection into a ConnectionError; it may be a plain RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        words = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
        if isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words):
            raise ConnectionError(
                f"another process of this run has ended or cannot be reached: {one_line(error)}"
            ) from error
        raise
