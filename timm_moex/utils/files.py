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

    Example:
        >>> path = Path(tempfile.mkdtemp()) / "greeting.txt"
        >>> write_atomically(path, lambda file: file.write(b"hello"))
        >>> path.read_text(encoding="utf-8")
        'hello'
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
    """Compute the sha256 of a file, in hexadecimal.

    Example:
        >>> path = Path(tempfile.mkdtemp()) / "empty"
        >>> path.touch()
        >>> sha256_of(path)[:16]
        'e3b0c44298fc1c14'
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def lock_of(path: Path, timeout: float = -1) -> FileLock:
    """Return a lock on a file or folder that one process of this user on this machine can hold at a time.

    The lock's own file lies in the system's temporary folder, so that nothing stays next to the locked path.

    Args:
        path: The file or folder to lock; it need not exist.
        timeout: Seconds to wait before `filelock.Timeout` is raised; -1 waits for as long as it takes.

    Example:
        >>> with lock_of(Path("output/run"), timeout=0) as lock:
        ...     lock.is_locked
        True
    """
    user = getattr(os, "getuid", getpass.getuser)()  # in a container a user may have no name
    folder = Path(tempfile.gettempdir()) / f"timm_moex-locks-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()
    return FileLock(folder / f"{name}.lock", timeout=timeout)
