"""Count and describe the images that a comparison trains and evaluates on, before training starts."""

from collections import Counter
from pathlib import Path
from typing import Any

from ..training.datasets import group_names, open_split
from ..training.recipe import Recipe, RecipeError
from ..training.splits import EVAL_SPLITS

__all__ = ["describe_images", "hold_out_images"]

_VAL_FRACTION = 0.2


def hold_out_images(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """Hold out a fifth of the images if the data folder has no split for evaluation; also return a note about it."""
    data_dir = recipe.settings.get("data_dir") or ""
    if recipe.settings.get("dataset") or "val_fraction" in recipe.settings or not Path(data_dir).is_dir():
        return recipe, []
    split = recipe.settings.get("val_split", "validation")
    if any((Path(data_dir) / name).is_dir() for name in (split, *EVAL_SPLITS)):
        return recipe, []
    note = f"val_fraction: {_VAL_FRACTION}, because {data_dir} has no evaluation folder; the split is always the same"
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
        images["training"] = f"all groups but one ({images['training']} with it)"
        described = ", ".join(f"{group} {count:,}" for group, count in counts.items())
        images["held out"] = f"all images of the held-out group ({described})"
    return images, groups
