"""Count and describe the images that a comparison trains and evaluates on, before training starts."""

from collections import Counter
from pathlib import Path
from typing import Any

from ..training.datasets import group_names, open_dataset
from ..training.recipe import Recipe, RecipeError
from ..training.splits import EVAL_SPLITS

__all__ = ["describe_images", "hold_out_images"]

_VAL_FRACTION = 0.2


def hold_out_images(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """Hold out a fifth of the images if the data folder has no split for evaluation.

    Returns:
        The recipe, and a note for the user about the change.
    """
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

    Args:
        recipe: The complete recipe.
        test: Name of the test split.
        by_group: Whether to hold out each group in turn.

    Returns:
        A description of each part ("training", "evaluation", "test", "held out"), and the groups to hold out.

    Raises:
        RecipeError: Two parts use the same split.
        DataError: See `open_dataset`.
    """
    args = recipe.arguments()
    splits = {"training": args.train_split, "evaluation": args.val_split} | ({"test": test} if test else {})
    double = [split for split, times in Counter(splits.values()).items() if times > 1]
    if double:
        raise RecipeError(f"split {double[0]!r} is used twice: training, evaluation and test need different images")
    images: dict[str, str] = {}
    groups: tuple[str, ...] = ()
    for part, split in splits.items():
        dataset = _open(args, split, 0.0 if part == "test" else args.val_fraction)
        images[part] = f"{len(dataset):,} images of split {split}"
        if part == "training" and by_group:
            groups = tuple(group_names(dataset))
    if args.val_fraction:
        images["evaluation"] += f" ({args.val_fraction:.0%} of each class, held out by a fixed draw)"
    if groups:
        counts = {group: len(_open(args, "", 0.0, only_group=group)) for group in groups}
        images["training"] = f"all groups but one ({images['training']} with it)"
        described = ", ".join(f"{group} {count:,}" for group, count in counts.items())
        images["held out"] = f"all images of the held-out group ({described})"
    return images, groups


def _open(args: Any, split: str, val_fraction: float, **kwargs: Any) -> Any:
    return open_dataset(
        args.dataset, args.data_dir, split, unreadable="replace", class_map=args.class_map,
        download=args.dataset_download, input_key=args.input_key, target_key=args.target_key,
        val_fraction=val_fraction, group_folders=args.group_folders, **kwargs,
    )  # fmt: skip
