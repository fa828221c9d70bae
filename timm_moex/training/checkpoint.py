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

from ..utils.files import write_atomically
from ..utils.messages import one_line
from .build import TrainingSetup
from .keys import stock_keys

__all__ = ["get_rng_state", "read_checkpoint", "restore_checkpoint", "save_checkpoint", "set_rng_state"]

# Keys of every checkpoint that `save_checkpoint` writes for a run
_KEYS = {"epoch", "args", "state_dict", "optimizer", "rng", "best"}
# Settings that a resumed run may change: paths, speed and reporting. The result is bit-exact only on the same device
# and, without in_memory, with the same number of workers.
_MAY_DIFFER = frozenset(
    {"output", "experiment", "data_dir", "workers", "log_interval", "pin_mem", "device", "device_modules"}
    | {"resume", "stop_epoch", "save_epochs", "skip_unreadable"}
    | {"log_tensorboard", "log_wandb", "wandb_project", "wandb_tags", "wandb_resume_id"}
)


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
    """Restore the state from `get_rng_state`. CUDA's state is skipped if the number of GPUs differs."""
    if generator is not None and state["loader"] is None:
        raise ValueError("the checkpoint has no state for the loader's generator: it was written by an older version")
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    random.setstate(state["python"])
    if generator is not None:
        generator.set_state(state["loader"])


def save_checkpoint(path: Path, run: TrainingSetup, rng: list[dict[str, Any]], **values: Any) -> None:
    """Write the state after an epoch atomically, with the next learning rate already set.

    Args:
        path: The file.
        run: The run.
        rng: `get_rng_state` of each process.
        **values: Plain values to store: `epoch`, counted from 0, `best`, …
    """
    state = {"version": 2, "arch": run.args.model, "args": run.settings, "optimizer": run.optimizer.state_dict()}
    state |= run.task.get_checkpoint_state() | run.task.get_checkpoint_state(ema=True)
    if run.scaler is not None:
        state[run.scaler.state_dict_key] = run.scaler.state_dict()
    state["rng"] = rng[0]
    if len(rng) > 1:
        state["rng_of_others"] = rng[1:]
    write_atomically(path, lambda file: torch.save(state | values, file))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of `save_checkpoint`, completely and without unpickling, or raise a ValueError."""
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


def restore_checkpoint(state: Mapping[str, Any], path: Path, run: TrainingSetup) -> None:
    """Restore a run, set up as a new one, to the state that `save_checkpoint` wrote to the file `path`."""
    defaults = {key: row.default for key, row in stock_keys().items()}  # an older version may have saved fewer keys
    was = defaults | {"processes": 1} | state["args"]
    changed = [key for key, value in run.settings.items() if key not in _MAY_DIFFER and value != was.get(key)]
    if changed:
        values = ", ".join(f"{key}={run.settings[key]!r} (was {was.get(key)!r})" for key in changed)
        raise ValueError(f"resume={str(path)!r} was saved with different settings: {values}")
    try:
        run.task.load_checkpoint_state(state["state_dict"], state.get("task_state"))
        if run.task.has_ema():
            run.task.load_checkpoint_state(state["state_dict_ema"], state.get("task_state_ema"), ema=True)
        run.optimizer.load_state_dict(state["optimizer"])
        if run.scaler is not None:
            run.scaler.load_state_dict(state[run.scaler.state_dict_key])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"resume={str(path)!r} does not fit this run: {one_line(error)}") from error
    set_rng_state([state["rng"], *state.get("rng_of_others", [])][run.processes.rank], run.generator)
