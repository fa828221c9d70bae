"""Who may import whom: imports point down the list of layers, and heavy or optional packages stay where they belong."""

import ast
from pathlib import Path

import pytest
import timm

import timm_moex  # noqa: F401

PACKAGE = Path(__file__).parents[1] / "timm_moex"

# A module may import modules of earlier rows and, in the rows marked, of its own.
LAYERS = [
    {"spelling"},
    {"ops.reference", "ops.kernels", "ops.fused", "ops._triton", "ops"},
    {"functional"},
    {"layer"},
    {"families"},
    {"fetch"},
    {"weights"},
    {"sites"},
    {"hooks"},
    {"insertion"},
    {"backbones"},
    {"twin"},
    {"task", "card"},
    {"hub"},
    {"__init__"},
    {"plugin", "recipe", "data", "evaluate", "visualize", "checkpoint", "convert", "verify", "publish"},
    {"run"},
    {"train"},
    {"cli_hub"},
    {"cli"},
    {"__main__"},
]
LEVEL = {module: level for level, row in enumerate(LAYERS) for module in row}
ONLY_IN = {"triton": {"ops._triton"}, "matplotlib": {"visualize"}, "pickle": set()}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[0] == "backbones":
        return "backbones"
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


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path):
    name = name_of(path)
    for imported in imports(path):
        if imported.startswith("."):
            top = imported[1:].split(".")[0]
            assert name in ONLY_IN.get(top, {name}), f"{name} imports {top}"
            continue
        target = "backbones" if imported.startswith("backbones") else imported
        if target == name or (name.startswith("ops") and target.startswith("ops")):
            continue
        assert LEVEL[target] <= LEVEL[name], f"{name} imports {target}, which lies above it"


def test_every_module_has_a_place_in_the_house():
    assert {name_of(path) for path in FILES} <= set(LEVEL)


def test_no_module_is_named_like_a_timm_model_module():
    # timm groups registered models by the last part of the module's name.
    theirs = {path.stem for path in Path(timm.models.__file__).parent.glob("*.py")} & set(timm.models.list_modules())
    assert len(theirs) > 90 and "twin" in timm.models.list_modules()
    assert not theirs & {path.stem for path in FILES}
