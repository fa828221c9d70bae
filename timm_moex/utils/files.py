"""Write files and folders atomically, and lock them against other processes."""

import ctypes
import errno
import hashlib
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

__all__ = [
    "lock_of",
    "remove_folder",
    "remove_leftovers",
    "replace_folder",
    "sha256_of",
    "temporary_name",
    "write_atomically",
]

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # from Linux's fcntl.h and fs.h
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)  # the kernel or the file system does not support the swap


def write_atomically(path: str | Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file atomically: `path` is always either the old file or the complete new one. A link is followed.

    `write` is called with an open temporary file in the same folder.
    """
    path = Path(os.path.realpath(path))
    temporary = temporary_name(path)
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """Return a unique path for a temporary file or folder next to `path`."""
    return path.with_name(f".{path.name}.timm_moex-{secrets.token_hex(8)}")


def remove_leftovers(path: Path, names: Iterable[str] = ()) -> None:
    """Remove files that a killed process left at a `temporary_name` of `path`. Call this only while `path` is locked.

    A temporary folder that contains files other than `names` is kept, with those files.
    """
    pattern = re.compile(re.escape(f".{path.name}.timm_moex-") + "[0-9a-f]{16}")
    for leftover in [other for other in path.parent.iterdir() if pattern.fullmatch(other.name)]:
        if leftover.is_dir():
            remove_folder(leftover, names)
        else:
            leftover.unlink()


def remove_folder(folder: Path, names: Iterable[str]) -> None:
    """Remove the files called `names` from a folder, and then the folder if it is empty."""
    for name in names:
        with suppress(FileNotFoundError, NotADirectoryError):
            (folder / name).unlink()
    with suppress(OSError):
        folder.rmdir()


def replace_folder(new: Path, target: Path) -> Path | None:
    """Replace the folder `target`, which need not exist, with the folder `new` next to it.

    On Linux, the two are swapped atomically. Elsewhere, the old folder is first renamed to TARGET.old-…, where the user
    can find it, and is renamed back if that fails. Return the new path of the old folder, or None if there was none.
    """
    if not target.exists():
        os.rename(new, target)
        return None
    if _exchange(new, target):
        return new
    aside = target.with_name(f"{target.name}.old-{secrets.token_hex(4)}")
    try:
        os.rename(target, aside)
        os.rename(new, target)
    except BaseException:
        if aside.exists() and not target.exists():
            os.rename(aside, target)
        raise
    return aside


def _exchange(a: Path, b: Path) -> bool:
    """Swap two paths; return False if this system does not support it."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(b))


def sha256_of(path: str | Path) -> str:
    """Compute the sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def lock_of(path: Path, timeout: float = -1) -> Iterator[None]:
    """Lock a file or folder against other processes; the operating system releases the lock if the process dies.

    The lock file is next to the path, visible to everyone who can see the path, and is removed at the end. `path` must
    not contain symbolic links. `timeout` is the time in seconds before `filelock.Timeout` is raised; -1 waits forever.
    """
    file = path.with_name(f".{path.name}.lock")
    lock = FileLock(file, timeout=timeout)
    while not (lock.is_locked and file.exists()):  # a previous owner may remove the file at any moment
        lock.release()
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):  # Windows cannot remove an open file
            file.unlink()
        lock.release()
