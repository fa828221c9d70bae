"""The plan of a comparison: a recipe, methods, seeds and images, and the run for each combination."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..training.datasets import group_names, open_split
from ..training.recipe import Recipe, RecipeError
from ..training.splits import EVAL_SPLITS
from ..utils.files import write_atomically
from .methods import apply_method, parse_methods
from .run import Run, check_equal

__all__ = ["Plan", "describe_images", "hold_out_images", "make_plan"]

_FILE = "compare.json"
_VAL_FRACTION = 0.2


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
                self.folder / method / group / str(seed),
                method,
                group,
                self.test,
            )
            for seed, group, method in chosen
        ]

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
            raise ValueError(f"{self.folder} held out {', '.join(old.groups) or 'nothing'}; choose another --output")
        if old.test and self.test and self.test != old.test:
            raise ValueError(f"{self.folder} was tested on {old.test!r}, not {self.test!r}; choose another --output")
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


def hold_out_images(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """Hold out a fifth of the images if the data folder has no split for evaluation; also return a note about it."""
    data_dir = recipe.settings.get("data_dir") or ""
    if recipe.settings.get("dataset") or "val_fraction" in recipe.settings or not Path(data_dir).is_dir():
        return recipe, []
    split = recipe.settings.get("val_split", "validation")
    if any((Path(data_dir) / name).is_dir() for name in (split, *EVAL_SPLITS)):
        return recipe, []
    note = f"val_fraction: {_VAL_FRACTION}, because {data_dir} has no evaluation folder; every run uses the same split"
    return recipe.with_defaults(val_fraction=_VAL_FRACTION), [note]


def describe_images(recipe: Recipe, test: str | None, by_group: bool) -> tuple[dict[str, str], tuple[str, ...]]:
    """Count the images of each part, so that missing data are found before training starts.

    Returns:
        A description of each part ("training", "evaluation", "test", "held out"), and the groups to hold out in turn
        if `by_group`.
    """
    args = recipe.arguments()
    splits = {"training": args.train_split, "evaluation": args.val_split} | ({"test": test} if test else {})
    double = [split for split, times in Counter(splits.values()).items() if times > 1]
    if double:
        raise RecipeError(f"split {double[0]!r} is used twice: training, evaluation and test need different images")
    images: dict[str, str] = {}
    groups: tuple[str, ...] = ()
    for part, split in splits.items():
        of_test = {"val_fraction": 0.0} if part == "test" else {}
        dataset = open_split(args, split, unreadable="replace", **of_test)
        images[part] = f"{len(dataset):,} images of split {split}"
        if part == "training" and by_group:
            groups = tuple(group_names(dataset))
    if args.val_fraction:
        images["evaluation"] += f" ({args.val_fraction:.0%} of each class, held out by a fixed draw)"
    if groups:
        whole: dict[str, Any] = dict(unreadable="replace", val_fraction=0.0)
        counts = {group: len(open_split(args, "", only_group=group, **whole)) for group in groups}
        images["training"] = f"all groups except the held-out one ({images['training']}, including that group)"
        described = ", ".join(f"{group} {count:,}" for group, count in counts.items())
        images["held out"] = f"all images of the held-out group ({described})"
    return images, groups


def make_plan(
    recipe: Recipe, methods: Sequence[str], seeds: list[int], folder: Path, test: str | None, leave_one_out: bool
) -> Plan:
    """Plan a comparison, after checking that its methods differ and that the data contain what it needs."""
    if leave_one_out and test:
        raise ValueError(f"test_split={test!r} with leave_one_out: the held-out groups are already the test data")
    if recipe.settings.get("held_out_group"):
        raise RecipeError("held_out_group is set, but leave_one_out holds out each group in turn; remove one of them")
    parsed = parse_methods(recipe, methods)
    images, groups = describe_images(recipe, test, leave_one_out)
    plan = Plan(folder, recipe.name, recipe.settings, parsed, seeds, images, test or "", groups)
    trained = [run.recipe.arguments() for run in plan.runs(seeds=seeds[:1])[: len(parsed)]]
    same = [name for name, args in zip(parsed, trained) if trained.count(args) > 1]
    if same:
        raise RecipeError(f"methods {', '.join(same)} train the same recipe; remove all but one")
    return plan
