"""The plan of a comparison: a recipe, methods, seeds, and the run for each combination."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..training.recipe import Recipe
from ..utils.files import write_atomically
from ..utils.messages import short_repr
from .methods import apply_method
from .run import Run, comparable

__all__ = ["Entry", "Plan"]

_FILE = "compare.json"


@dataclass(frozen=True)
class Entry:
    """A run and its place in the comparison; `group` is the domain held out, or ""."""

    method: str
    seed: int
    group: str
    run: Run

    def __str__(self) -> str:
        return " ".join(filter(None, (self.method, self.group, f"seed {self.seed}")))


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

    def entries(self, methods: Sequence[str] | None = None, seeds: Sequence[int] | None = None) -> list[Entry]:
        """List the runs, all methods of a seed before the next seed.

        Args:
            methods: Only these; default: all.
            seeds: Only these; default: all.
        """
        recipe = Recipe(self.name, self.settings, written=frozenset())
        recipes = {name: apply_method(recipe, changes) for name, changes in self.methods.items()}
        return [
            self._entry(recipes[method], method, seed, group)
            for seed, group, method in itertools.product(
                self.seeds if seeds is None else seeds, self.groups or ("",), methods or self.methods
            )
        ]

    def _entry(self, recipe: Recipe, method: str, seed: int, group: str) -> Entry:
        recipe = recipe.override(seed=seed, held_out_group=group or None)
        return Entry(method, seed, group, Run(recipe, self.folder / method / group / str(seed), self.test, bool(group)))

    def merged(self) -> "Plan":
        """Add the methods and seeds of an existing compare.json in the folder.

        Raises:
            ValueError: compare.json has a different recipe, or a different method under the same name.
        """
        if not (self.folder / _FILE).is_file():
            return self
        old = Plan.load(self.folder)
        ours, theirs = comparable(self.settings), comparable(old.settings)
        for key in ours | theirs:
            if ours.get(key) != theirs.get(key):
                raise ValueError(
                    f"{self.folder} was started with {key}: {short_repr(theirs.get(key))}, but now it is "
                    f"{short_repr(ours.get(key))}; choose another --output"
                )
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
        text = json.dumps(content, indent=1)
        write_atomically(self.folder / _FILE, lambda file: file.write(text.encode()))

    @classmethod
    def load(cls, folder: str | Path) -> "Plan":
        """Read the plan of a folder.

        Raises:
            FileNotFoundError: The folder does not contain a comparison.
        """
        path = Path(folder) / _FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder} does not contain a comparison: {_FILE} is missing")
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(Path(folder), **content | {"groups": tuple(content["groups"])})
