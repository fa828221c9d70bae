"""Kill `save_folder` with SIGKILL before each of its file operations on an old folder, and check what is left.

Run as a separate single-threaded script, so that children can be forked. The argument "rename" simulates a system
that cannot swap two folders atomically. Prints a JSON line for each kill.
"""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import timm
import torch
from hub_folders import CONFIG, files_of

from timm_moex.hub import save_folder
from timm_moex.utils import files

EVENTS = ("open", "os.chmod", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")


def kill_at(number: int, folder: Path) -> None:
    """Kill this process before operation number `number` on anything next to or inside `folder`."""
    count = iter(range(10**6))

    def hook(event: str, args: tuple) -> None:
        if event in EVENTS and str(args[0]).startswith(str(folder.parent)) and next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def save(model: torch.nn.Module, folder: Path, number: int) -> bool:
    """Save in a forked process that is killed at an operation; return False if it ended before that."""
    child = os.fork()
    if child == 0:
        if "rename" in sys.argv:
            files._exchange = lambda a, b: False
        kill_at(number, folder)
        save_folder(model, folder, CONFIG)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or status == 0
    return os.WIFSIGNALED(status)


def main() -> None:
    torch.set_num_threads(1)
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(timm.create_model("test_resnet", num_classes=10))
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(os.path.realpath(temporary))
        old, new = (files_of(save_folder(model, root / name, CONFIG)) for model, name in zip(models, ("old", "new")))
        killed, number = True, 0
        while killed:
            folder = save_folder(models[0], root / str(number) / "hub", CONFIG)
            killed = save(models[1], folder, number)
            there = {path.name: files_of(path) for path in folder.parent.iterdir() if path.is_dir()}
            kinds = [(old, "old"), (new, "new")]
            names = {name: next((k for c, k in kinds if c == content), "part") for name, content in there.items()}
            save_folder(models[1], folder, CONFIG)
            after = [path.name for path in folder.parent.iterdir()]
            print(json.dumps({"killed": killed, "left": names, "after": after, "is_new": files_of(folder) == new}))
            number += 1


if __name__ == "__main__":
    main()
