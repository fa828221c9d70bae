"""Kill tiny training runs with SIGKILL, resume them, and compare every file with an undisturbed run.

Run as a separate single-threaded script, so that children can be forked from a process that has imported everything.
Prints a JSON line for each kill: its kind, whether it hit, the files left, and which files differ at the end.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tinydata import tiny_recipe, write_tiny

from timm_moex.training.loop import train

# Path's own methods: before Python 3.11 they kept functions of os that were bound at import
WRITING = ((os, "replace"), (os, "fsync"), (os, "rename"), (Path, "unlink"))
RANDOM_KILLS = 6


def training(data: Path, folder: Path, resume: bool = False) -> None:
    recipe = tiny_recipe(data, epochs=2)
    if resume:
        recipe = recipe.override(resume=str(folder / "last.pth.tar"))
    train(recipe, folder, log=lambda line: None, progress=False, in_memory=True)


def in_child(work: Callable[[], None]) -> int:
    """Start `work` in a forked process, and return its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return child


def count_writes(at_write: Callable[[int], None]) -> None:
    """Call `at_write` with a running number before each operation that changes the folder."""
    numbers = iter(range(10**6))
    for owner, name in WRITING:
        real = getattr(owner, name)

        def counted(*args, _real=real, **kwargs):
            at_write(next(numbers))
            return _real(*args, **kwargs)

        setattr(owner, name, counted)


def contents(folder: Path) -> dict[str, object]:
    """Return everything in the folder: checkpoints as their values, other files as bytes."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".tar":
            found[path.name] = torch.load(path, weights_only=True)
        elif path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def kill_and_resume(kind: str, start: Callable[[Path], int], data: Path, folder: Path, expected: dict) -> None:
    _, status = os.waitpid(start(folder), 0)
    held = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    resume = (folder / "last.pth.tar").exists()
    _, again = os.waitpid(in_child(lambda: training(data, folder, resume)), 0)
    final = contents(folder)
    differ = [name for name in expected.keys() | final.keys() if not same(expected.get(name), final.get(name))]
    report = dict(kind=kind, killed=os.WIFSIGNALED(status), held=held, resumed=os.waitstatus_to_exitcode(again))
    print(json.dumps(report | {"differ": differ}), flush=True)
    shutil.rmtree(folder)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        data, straight = write_tiny(Path(temporary) / "data"), Path(temporary) / "straight"
        writes = Path(temporary) / "writes"

        def count() -> None:
            count_writes(lambda number: writes.write_text(str(number + 1)))
            training(data, straight)

        began = time.monotonic()
        assert os.waitpid(in_child(count), 0)[1] == 0
        duration, expected = time.monotonic() - began, contents(straight)

        def kill_at(number: int) -> Callable[[Path], int]:
            def work(folder: Path) -> None:
                count_writes(lambda now: os.kill(os.getpid(), signal.SIGKILL) if now == number else None)
                training(data, folder)

            return lambda folder: in_child(lambda: work(folder))

        def kill_after(seconds: float) -> Callable[[Path], int]:
            def start(folder: Path) -> int:
                child = in_child(lambda: training(data, folder))
                time.sleep(seconds)
                os.kill(child, signal.SIGKILL)
                return child

            return start

        folder, draw = Path(temporary) / "run", random.Random(0)
        for number in range(int(writes.read_text())):
            kill_and_resume(f"write {number}", kill_at(number), data, folder, expected)
        for seconds in [draw.uniform(0, duration) for _ in range(RANDOM_KILLS)]:
            kill_and_resume(f"after {seconds:.2f} s", kill_after(seconds), data, folder, expected)


if __name__ == "__main__":
    main()
