"""Contents and metadata of the wheel, checked without building one; `make dist` builds it."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

import timm_moex
from timm_moex.hub.manifest import read_manifest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # a dependency of pytest there

ROOT = Path(__file__).parents[1]
WHEEL_LIMIT = 10_000_000  # bytes


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(pyproject):
    """The files that hatch adds to the wheel."""
    target = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]
    files = {path for folder in target["only-include"] for path in (ROOT / folder).rglob("*") if path.is_file()}
    files -= {path for pattern in target["exclude"] for path in ROOT.glob(pattern)}
    return {path for path in files if "__pycache__" not in path.parts}


def test_the_version_has_one_place_and_the_citation_agrees(pyproject):
    assert "version" not in pyproject["project"] and "version" in pyproject["project"]["dynamic"]
    place = ROOT / pyproject["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{timm_moex.__version__}"' in place.read_text(encoding="utf-8")
    assert f"\nversion: {timm_moex.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


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


def test_the_workflow_runs_the_same_check_on_every_declared_python(pyproject):
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text(encoding="utf-8"))["jobs"]
    versions = [c.rpartition(" ")[2] for c in pyproject["project"]["classifiers"] if ":: 3." in c]
    assert jobs["checks"]["strategy"]["matrix"]["python"] == versions
    assert {"run": ".ci/run"} in jobs["checks"]["steps"]


def test_the_authors_are_those_of_the_citation(pyproject):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert pyproject["project"]["authors"] == citation["authors"]


@pytest.fixture
def hook(monkeypatch):
    """Runs the metadata hook for an address; only the environment that builds the package needs hatchling."""
    monkeypatch.setitem(sys.modules, "hatchling.metadata.plugin.interface", ModuleType("interface"))
    monkeypatch.setattr(
        sys.modules["hatchling.metadata.plugin.interface"], "MetadataHookInterface", object, raising=False
    )
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(root, repository):
        metadata = {}
        hook = SimpleNamespace(config={"repository": repository}, root=str(root))
        module.RepositoryMetadataHook.update(hook, metadata)
        return metadata

    return run


PAGE = """[here](docs/a.md#b) [there](https://a.org/b) [below](#c) [![p](docs/p.png)](docs/a.md) <img src="docs/q.svg">

```python
x = kernels[grid](y)
```
"""


def test_links_of_the_readme_are_absolute_once_there_is_an_address(hook, tmp_path):
    (tmp_path / "README.md").write_text(PAGE, encoding="utf-8")
    metadata = hook(tmp_path, "https://a.org/o/n/")
    page = PAGE.replace("(docs/a", "(https://a.org/o/n/blob/HEAD/docs/a")
    page = page.replace("(docs/p", "(https://a.org/o/n/raw/HEAD/docs/p").replace(
        '"docs/q', '"https://a.org/o/n/raw/HEAD/docs/q'
    )
    assert metadata["readme"] == {"content-type": "text/markdown", "text": page}
    assert set(metadata["urls"]) == {"Repository", "Issues", "Changelog"}
    assert all(url.startswith("https://a.org/o/n") for url in metadata["urls"].values())


def test_without_an_address_no_url_is_invented_and_links_stay_relative(hook, tmp_path):
    (tmp_path / "README.md").write_text(PAGE, encoding="utf-8")
    assert hook(tmp_path, "") == {"readme": {"content-type": "text/markdown", "text": PAGE}}


def test_every_relative_link_of_the_readme_has_a_target():
    targets = re.findall(
        r'(?:\]\(|(?:src|srcset|href)=")(?![a-z]+:|#)([^)"\s#]+)', (ROOT / "README.md").read_text(encoding="utf-8")
    )
    assert targets and not [target for target in targets if not (ROOT / target).exists()]
