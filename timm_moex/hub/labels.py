"""Class names in the order of the labels, converted from the forms in which people store them."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..utils.messages import short_repr

__all__ = ["label_list"]


def label_list(label_names: Any, num_classes: int) -> list[str]:
    """Return class names in the order of the labels.

    Args:
        label_names: A list or tuple, an array of strings, or a mapping from label to name or from name to label; empty
            for no names.
        num_classes: Number of classes of the model.

    Raises:
        ValueError: The form is not supported, the number of names is wrong, or a name is not a string or occurs twice.

    Example:
        >>> label_list({"fox": 1, "cat": 0}, 2), label_list({0: "cat", 1: "fox"}, 2)
        (['cat', 'fox'], ['cat', 'fox'])
    """
    names = _in_order(label_names)
    if not names:
        return []
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise ValueError(f"label_names: {short_repr(wrong[0])} has type {type(wrong[0]).__name__}, not str")
    if len(names) != num_classes:
        raise ValueError(f"label_names: {len(names)} names for a model with num_classes={num_classes}")
    [(name, count)] = Counter(names).most_common(1)
    if count > 1:
        raise ValueError(f"label_names: {name!r} occurs {count} times")
    return names


def _in_order(label_names: Any) -> list[Any]:
    if isinstance(label_names, Mapping):
        items = list(label_names.items())
        pairs = items if not any(isinstance(key, str) for key in label_names) else [(v, k) for k, v in items]
        by_label = dict(pairs)
        if by_label.keys() != set(range(len(items))):
            raise ValueError(
                f"label_names={short_repr(dict(items))}: expected the labels 0 to {len(items) - 1}, each once"
            )
        return [by_label[label] for label in range(len(items))]
    if hasattr(label_names, "tolist"):
        label_names = label_names.tolist()
    if not isinstance(label_names, (list, tuple)):
        raise ValueError(
            f"label_names={short_repr(label_names)}: expected a list in the order of the labels, or a mapping from "
            f"label to name, got {type(label_names).__name__}"
        )
    return list(label_names)
