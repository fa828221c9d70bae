"""Checkpoints of the built-in trainer: everything needed to resume a run exactly, in timm's layout.

timm's `load_checkpoint`, `resume_task_checkpoint` and train.py's --resume can read them, without unpickling.
"""

import random
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.task import TrainingTask
from timm.utils import NativeScaler

from ..utils.files import write_atomically
from ..utils.messages import one_line

__all__ = ["get_rng_state", "read_checkpoint", "restore_checkpoint", "save_checkpoint", "set_rng_state"]

# Keys of every checkpoint that `save_checkpoint` writes for a run
_KEYS = {"epoch", "args", "state_dict", "optimizer", "rng", "best"}


def get_rng_state(generator: torch.Generator | None = None) -> dict[str, Any]:
    """Return the state of every random generator: torch on CPU and CUDA, NumPy, Python, and the data loader's own."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (name, np.asarray(keys).tolist(), position, has_gauss, cached),
        "python": random.getstate(),
        "loader": None if generator is None else generator.get_state(),
    }


def set_rng_state(state: dict[str, Any], generator: torch.Generator | None = None) -> None:
    """Restore the state from `get_rng_state`. CUDA's state is skipped if the number of GPUs differs.

    Raises:
        ValueError: `generator` has no state in `state`, because an older version wrote it.
    """
    if generator is not None and state["loader"] is None:
        raise ValueError("the checkpoint has no state for the data loader's generator; an older version wrote it")
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    random.setstate(state["python"])
    if generator is not None:
        generator.set_state(state["loader"])


def save_checkpoint(
    path: Path,
    task: TrainingTask,
    optimizer: torch.optim.Optimizer,
    scaler: NativeScaler | None,
    *,
    epoch: int,
    args: dict[str, Any],
    rng: list[dict[str, Any]],
    **extra: Any,
) -> None:
    """Write the state after `epoch` (counted from 0), with the next learning rate already set.

    Args:
        path: The file, replaced atomically.
        task: Holds the model and its EMA.
        optimizer: The optimizer, with the learning rates of the next epoch.
        scaler: Scaler for fp16 gradients, if any.
        epoch: The epoch that has just finished.
        args: The run's settings, which `restore_checkpoint` compares.
        rng: `get_rng_state` of each process.
        **extra: Plain values to store: `metric`, `best`, …
    """
    state = {"epoch": epoch, "version": 2, "arch": args["model"], "args": args, "optimizer": optimizer.state_dict()}
    state |= task.get_checkpoint_state() | task.get_checkpoint_state(ema=True)
    if scaler is not None:
        state[scaler.state_dict_key] = scaler.state_dict()
    state["rng"] = rng[0]
    if len(rng) > 1:
        state["rng_of_others"] = rng[1:]
    write_atomically(path, lambda file: torch.save(state | extra, file))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of `save_checkpoint`, completely and without unpickling.

    Raises:
        ValueError: The file is damaged, or is not a checkpoint of the built-in trainer.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not verify the checksums
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, zlib and torch raise many types for damaged or unrelated files
        raise ValueError(f"resume={str(path)!r} is not a complete checkpoint: {one_line(error)}") from error
    if not isinstance(state, dict) or not _KEYS <= state.keys():
        raise ValueError(
            f"resume={str(path)!r} was not written by the built-in trainer; to start from its weights, set "
            "initial_checkpoint instead"
        )
    return state


def restore_checkpoint(
    state: Mapping[str, Any],
    path: Path,
    task: TrainingTask,
    optimizer: torch.optim.Optimizer,
    scaler: NativeScaler | None,
    *,
    args: Mapping[str, Any],
    defaults: Mapping[str, Any],
    may_differ: frozenset[str],
    rank: int,
    generator: torch.Generator | None,
) -> None:
    """Restore a run to the state that `save_checkpoint` wrote.

    Args:
        state: The checkpoint.
        path: Its file, for messages.
        task: As for `save_checkpoint`, with the EMA already set up.
        optimizer: Created for a new run, together with its scheduler.
        scaler: Created for a new run.
        args: The settings of this run.
        defaults: Values for settings that are missing from checkpoints of older versions.
        may_differ: Keys of `args` that may differ from the checkpoint.
        rank: The rank of this process.
        generator: The data loader's own generator, if it has one.

    Raises:
        ValueError: The checkpoint was saved with different settings.
    """
    was = {**defaults, **state["args"]}
    changed = [k for k in args if k not in may_differ and args[k] != was.get(k)]
    if changed:
        values = ", ".join(f"{key}={args[key]!r} (was {was.get(key)!r})" for key in changed)
        raise ValueError(f"resume={str(path)!r} was saved with different settings: {values}")
    try:
        _restore(state, task, optimizer, scaler)
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"resume={str(path)!r} does not fit this run: {one_line(error)}") from error
    set_rng_state([state["rng"], *state.get("rng_of_others", [])][rank], generator)


def _restore(
    state: Mapping[str, Any], task: TrainingTask, optimizer: torch.optim.Optimizer, scaler: NativeScaler | None
) -> None:
    task.load_checkpoint_state(state["state_dict"], state.get("task_state"))
    if task.has_ema():
        task.load_checkpoint_state(state["state_dict_ema"], state.get("task_state_ema"), ema=True)
    optimizer.load_state_dict(state["optimizer"])
    if scaler is not None:
        scaler.load_state_dict(state[scaler.state_dict_key])
