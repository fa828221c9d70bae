"""What goes into the wheel and what its metadata state, without building one: `make dist` does that."""

import re
import sys
from pathlib import Path

import pytest

import timm_moex
from timm_moex.hub.manifest import read_manifest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it there

ROOT = Path(__file__).parents[1]
WHEEL_LIMIT = 10_000_000  # bytes


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(pyproject):
    """The files that hatch puts into the wheel."""
    target = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]
    files = {path for folder in target["only-include"] for path in (ROOT / folder).rglob("*") if path.is_file()}
    files -= {path for pattern in target["exclude"] for path in ROOT.glob(pattern)}
    return {path for path in files if "__pycache__" not in path.parts}


def test_the_version_has_one_place(pyproject):
    assert "version" not in pyproject["project"] and pyproject["project"]["dynamic"] == ["version"]
    place = ROOT / pyproject["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{timm_moex.__version__}"' in place.read_text(encoding="utf-8")


def test_the_wheel_is_small_before_it_is_even_compressed(wheel):
    assert sum(path.stat().st_size for path in wheel) < WHEEL_LIMIT


def test_the_wheel_has_each_checkpoint_but_for_weights_that_are_too_large(wheel):
    for entry in read_manifest(ROOT / "weights" / "manifest.json"):
        left_out = {"model.safetensors"} if entry.is_too_large_for_the_wheel else set()
        inside = {path.name for path in wheel if path.parent == ROOT / "weights" / entry.name}
        assert inside == entry.files.keys() - left_out, entry.name


def test_the_constraints_of_the_floor_are_the_declared_lowest_versions(pyproject):
    declared = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups() for line in pyproject["project"]["dependencies"])
    lines = (ROOT / "tests" / "floor.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(re.fullmatch(r"([\w-]+)==([\d.]+)", line).groups() for line in lines if not line.startswith("#"))
    assert {name: pinned.get(name) for name in declared} == declared


def test_every_python_that_is_declared_is_named(pyproject):
    versions = [c.rpartition(" ")[2] for c in pyproject["project"]["classifiers"] if ":: 3." in c]
    assert versions[0] == pyproject["project"]["requires-python"].removeprefix(">=")
    assert pyproject["tool"]["ruff"]["target-version"] == "py" + versions[0].replace(".", "")
