"""Rules that keep the sources portable to Windows and macOS; nothing here needs those systems."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "timm_moex"
SOURCES = sorted(PACKAGE.rglob("*.py"))
UNIX_ONLY_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
UNIX_ONLY_CALLS = {"fork", "getuid", "geteuid", "mkfifo", "killpg", "setsid", "symlink", "symlink_to"}


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, getattr(node.func, "attr", None) or getattr(node.func, "id", "")


def is_text_without_encoding(call, name):
    """Return whether a file is read or written in the machine's encoding, which on Windows may not be UTF-8."""
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    if name == "open":
        owner = getattr(getattr(call.func, "value", None), "id", "")
        words = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        return owner not in ("Image", "os") and not any("b" in mode for mode in words)
    return name in ("read_text", "write_text")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_sources_are_portable(path):
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
    modules = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    assert not modules & UNIX_ONLY_MODULES
    assert not {name for _, name in calls(tree)} & UNIX_ONLY_CALLS
    assert [call.lineno for call, name in calls(tree) if is_text_without_encoding(call, name)] == []
