"""Imports point down the list of layers, and heavy or optional packages are imported only where they belong."""

import ast
from pathlib import Path

import pytest
import timm

import timm_moex  # noqa: F401

PACKAGE = Path(__file__).parents[1] / "timm_moex"

# A room may import the rooms before it. Within a room, modules may import each other, but never in a circle.
ROOMS = ("utils", "exchange", "insertion", "task", "hub", "models", "training", "pictures", "comparison")
FRONT = ("version", "cli", "__init__", "plugin", "script", "__main__")  # above the rooms: these may import every room
ONLY_IN = {"triton": {"exchange._triton"}, "matplotlib": {"pictures.figure", "pictures.curves"}, "pickle": set()}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1]) or "__init__" if parts[-1] == "__init__" else ".".join(parts)


def imports(path: Path):
    """(package-relative module, or top-level package with a leading dot) of every import in a file."""
    package = path.relative_to(PACKAGE.parent).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield f".{alias.name}"
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = list(package[1 : len(package) - node.level + 1]) + (node.module.split(".") if node.module else [])
            for alias in node.names:
                module = ".".join([*base, alias.name])
                is_file = (PACKAGE / (module.replace(".", "/") + ".py")).exists()
                is_package = (PACKAGE / module.replace(".", "/") / "__init__.py").exists()
                yield module if is_file or is_package else ".".join(base) or "__init__"
        elif isinstance(node, ast.ImportFrom):
            yield f".{node.module}"


FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: str) -> str:
    return module.partition(".")[0]


def level_of(module: str) -> int:
    room = room_of(module)
    return ROOMS.index(room) if room in ROOMS else len(ROOMS) + FRONT.index(room)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path):
    name = name_of(path)
    for imported in imports(path):
        if imported.startswith("."):
            top = imported[1:].split(".")[0]
            assert name in ONLY_IN.get(top, {name}), f"{name} imports {top}"
        elif imported != name:
            assert level_of(imported) <= level_of(name), f"{name} imports {imported}, which is above it"


def test_no_circle_within_a_room():
    waits = {name_of(path): {i for i in imports(path) if not i.startswith(".")} - {name_of(path)} for path in FILES}
    for room in ROOMS:  # a room's __init__ hands names on to other rooms; its own modules import each other directly
        assert not [name for name in waits if room_of(name) == room != name and room in waits[name]]
    while ready := [name for name, needs in waits.items() if not needs & waits.keys()]:
        for name in ready:
            del waits[name]
    assert not waits, f"modules that import each other in a circle: {sorted(waits)}"


def test_every_module_is_in_a_room():
    assert {room_of(name_of(path)) for path in FILES} == {*ROOMS, *FRONT}


def test_no_module_is_named_like_a_timm_model_module():
    # timm groups registered models by the last part of the module's name.
    theirs = {path.stem for path in Path(timm.models.__file__).parent.glob("*.py")} & set(timm.models.list_modules())
    assert len(theirs) > 90 and "twin" in timm.models.list_modules()
    assert not theirs & {path.stem for path in FILES}
