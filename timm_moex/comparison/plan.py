"""The plan of a comparison: a recipe, methods, seeds, and the run for each combination."""

import itertools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..training.recipe import Recipe
from ..utils.files import write_atomically
from .methods import apply_method
from .run import Run, check_equal

__all__ = ["Plan"]

_FILE = "compare.json"


@dataclass(frozen=True)
class Plan:
    """Everything that determines the runs of a comparison, saved in compare.json.

    Attributes:
        folder: Contains METHOD/SEED for each run, or METHOD/GROUP/SEED.
        name: Name of the recipe.
        settings: The recipe's settings, shared by all methods.
        methods: Name → changes, see `parse_methods`.
        seeds: In the order of the runs.
        images: Part ("training", "evaluation", "test") → description of its images.
        test: Name of the split to test finished runs on; "" to skip the test.
        groups: Domains to hold out in turn; empty for an ordinary comparison.
    """

    folder: Path
    name: str
    settings: dict[str, Any]
    methods: dict[str, list[str]]
    seeds: list[int]
    images: dict[str, str]
    test: str = ""
    groups: tuple[str, ...] = ()

    def runs(self, methods: Iterable[str] | None = None, seeds: Iterable[int] | None = None) -> list[Run]:
        """List the runs, all or only of some methods or seeds; all methods of a seed come before the next seed."""
        recipe = Recipe(self.name, self.settings, written=frozenset())
        recipes = {name: apply_method(recipe, changes) for name, changes in self.methods.items()}
        chosen = itertools.product(seeds or self.seeds, self.groups or ("",), methods or self.methods)
        return [
            Run(
                recipes[method].override(seed=seed, held_out_group=group or None),
                self.folder / method / group / str(seed), method, group, self.test,
            )
            for seed, group, method in chosen
        ]  # fmt: skip

    def merged(self) -> "Plan":
        """Add the methods and seeds of the folder's compare.json, whose recipe and methods must be the same."""
        if not (self.folder / _FILE).is_file():
            return self
        old = Plan.load(self.folder)
        check_equal(self.settings, old.settings, f"{self.folder} was started", "--output")
        for name in self.methods.keys() & old.methods.keys():
            if self.methods[name] != old.methods[name]:
                raise ValueError(
                    f"{self.folder}: method {name!r} was {' '.join(old.methods[name])!r}, but now it is "
                    f"{' '.join(self.methods[name])!r}; choose another name"
                )
        if self.groups != old.groups:
            raise ValueError(f"{self.folder} holds out {', '.join(old.groups) or 'nothing'}; choose another --output")
        if old.test and self.test and self.test != old.test:
            raise ValueError(f"{self.folder} tests on {old.test!r}, but now on {self.test!r}; choose another --output")
        test, images = self.test or old.test, old.images | self.images
        seeds = sorted({*self.seeds, *old.seeds})
        return replace(self, methods=old.methods | self.methods, seeds=seeds, test=test, images=images)

    def save(self) -> None:
        """Write compare.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {key: value for key, value in asdict(self).items() if key != "folder"}
        write_atomically(self.folder / _FILE, lambda file: file.write(json.dumps(content, indent=1).encode()))

    @classmethod
    def load(cls, folder: str | Path) -> "Plan":
        """Read the plan of a folder."""
        path = Path(folder) / _FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder} does not contain a comparison: {_FILE} is missing")
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(Path(folder), **content | {"groups": tuple(content["groups"])})
