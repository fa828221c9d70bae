"""Files that are written whole or not at all, and locks between processes that write the same ones."""

import getpass
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

__all__ = ["lock_of", "sha256_of", "write_atomically"]


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file so that at any moment `path` is either the old file or the whole new one.

    Args:
        path: The file.
        write: Called with the open temporary file, which lies in the same folder.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_of(path: str | Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def lock_of(path: Path, timeout: float = -1) -> FileLock:
    """A lock that one process of this user on this machine can hold at a time for a file or folder.

    Its own file lies in the system's temporary folder, so that nothing stays next to what is locked.

    Args:
        path: What is to be locked; it need not exist.
        timeout: Seconds to wait before `filelock.Timeout` is raised; -1 waits for as long as it takes.
    """
    folder = Path(tempfile.gettempdir()) / f"timm_moex-locks-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()
    return FileLock(folder / f"{name}.lock", timeout=timeout)
