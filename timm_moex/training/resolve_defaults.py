"""Complete a recipe with settings that depend on the machine and the data: the device and the number of classes."""

from typing import Any

import torch

from .datasets import label_names, open_dataset
from .recipe import Recipe, stock_keys

__all__ = ["resolve_defaults", "find_device"]


def find_device(recipe: Recipe) -> str:
    """Return the recipe's device, or by default the GPU if there is one; train.py would require a GPU.

    Example:
        >>> find_device(Recipe("mine", {"device": "cuda:1"}))
        'cuda:1'
    """
    return recipe.settings.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")


def resolve_defaults(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """Complete a recipe without changing its own settings.

    Without `device`, training uses the result of `find_device`. Without `num_classes`, the model gets a classifier for
    the classes of the data. (train.py would keep the classes of the weights, or use 1,000.)

    Args:
        recipe: The user's recipe.

    Returns:
        The completed recipe, and lines for the user about what was filled in.

    Raises:
        DataError: The classes cannot be counted, because the data cannot be opened.

    Example:
        >>> resolve_defaults(Recipe("mine", {"device": "cpu", "model": "moex_resnet18", "num_classes": 3}))[1]
        []
    """
    found: dict[str, Any] = {}
    notes = []
    if "device" not in recipe.settings and find_device(recipe) == "cpu":
        found["device"] = "cpu"
        notes.append("device: cpu, because no CUDA device was found")
        if recipe.settings.get("amp"):
            notes.append("amp: true is slow on a CPU without half-precision arithmetic; turn it off by --set amp=false")
    if recipe.settings.get("num_classes") is None:
        names = _class_names(recipe.settings)
        if names:
            found["num_classes"] = len(names)
            some = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
            notes.append(f"num_classes: {len(names)}, the classes of the data ({some})")
    return recipe.with_defaults(**found), notes


def _class_names(settings: dict[str, Any]) -> list[str]:
    keys = ("dataset", "data_dir", "train_split", "class_map", "dataset_download")
    of_folder = ("input_key", "val_fraction", "group_folders", "held_out_group")
    given = {key: settings.get(key, stock_keys()[key].default) for key in keys + of_folder}
    dataset = open_dataset(
        given["dataset"], given["data_dir"], given["train_split"],
        unreadable="replace", class_map=given["class_map"], download=given["dataset_download"],
        **{key: given[key] for key in of_folder},
    )  # fmt: skip
    return label_names(dataset)
