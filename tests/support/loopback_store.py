"""Storage of the loopback Hub: repos with their commits and refs, and the failures it has been told to produce."""

import hashlib
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any

LFS_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".gz", ".png")


@dataclass
class Blob:
    content: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        """The hash that the client compares: the sha256 of an LFS file, git's hash of a small one."""
        if self.lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


def described(name: str, blob: Blob) -> dict[str, Any]:
    """A file as the Hub's tree lists it."""
    entry = {"type": "file", "path": name, "size": len(blob.content), "oid": Blob(blob.content, False).oid}
    lfs = {"oid": blob.oid, "size": len(blob.content), "pointerSize": 134}
    return entry | ({"lfs": lfs} if blob.lfs else {})


@dataclass
class Repo:
    private: bool
    commits: list[tuple[str, str, dict[str, Blob]]] = field(default_factory=list)  # (oid, title, files)
    refs: dict[str, str] = field(default_factory=dict)  # branch or tag: commit
    tags: set[str] = field(default_factory=set)

    def commit(self, title: str, files: dict[str, Blob], branch: str = "main") -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {title} {sorted(files)} {time.time_ns()}".encode()).hexdigest()
        self.commits.append((oid, title, files))
        self.refs[branch] = oid
        return oid

    def files(self, revision: str) -> tuple[str, dict[str, Blob]] | None:
        wanted = self.refs.get(revision, revision)
        return next(((oid, files) for oid, _, files in reversed(self.commits) if oid == wanted), None)


@dataclass
class Fault:
    """`kind`: gated, timeout (no answer), drop (connection ends before the answer), cut (in the middle of a file),
    corrupt (as long, but other bytes), or a status. Applies to the next `times` requests whose "METHOD path" (and
    " bytes=…" for a range) match."""

    pattern: str
    kind: str | int
    times: int


class Faults(list[Fault]):
    """The requested failures, in order."""

    lock = threading.Lock()

    def take(self, line: str, kinds: tuple[str, ...] | None) -> str | int | None:
        """Consume the first fault of these kinds (None: a status) for a request; return None if there is none."""
        with self.lock:
            for fault in self:
                wanted = isinstance(fault.kind, int) if kinds is None else fault.kind in kinds
                if wanted and fault.times > 0 and re.search(fault.pattern, line):
                    fault.times -= 1
                    return fault.kind
        return None


class Refusal(Exception):
    """A response with an error status, and the headers by which the client distinguishes errors."""

    def __init__(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers
