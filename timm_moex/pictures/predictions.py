"""Picture of a model's predictions."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from .figure import new_figure, save_figure, show_image

__all__ = ["prediction_grid"]

_GOOD, _BAD = "#1a7f37", "#cf222e"


def prediction_grid(
    images: Tensor, labels: Tensor, predictions: Tensor, names: Sequence[str], path: str | Path, *, columns: int = 8
) -> Path:
    """Save test images with the predicted class as title; wrong predictions are red and name the true class.

    Args:
        images: (B, C, H, W) with 1 to 4 channels, values in [0, 1]; an alpha channel is not drawn.
        labels: True classes, (B,).
        predictions: Predicted classes, (B,).
        names: Class names.
        path: The picture to write; its suffix chooses the format.
        columns: Images in a row.
    """
    count = len(images)
    if images.ndim != 4 or images.shape[1] not in (1, 2, 3, 4) or not count == len(labels) == len(predictions):
        raise ValueError(
            f"images {tuple(images.shape)}, labels {tuple(labels.shape)}, predictions {tuple(predictions.shape)}: "
            "expected (B, 1 to 4, H, W), (B,), (B,)"
        )
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = new_figure(1.5 * columns, 1.9 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
        axis.set_anchor("S")  # leave free height above the image, for a title of two lines
    images = images[:, : 1 if images.shape[1] < 3 else 3]
    pictures = images.detach().float().clamp(0, 1).cpu()
    for axis, picture, label, guess in zip(axes, pictures, labels.tolist(), predictions.tolist()):
        show_image(axis, picture)
        title = names[guess] if guess == label else f"{names[guess]}\n(is {names[label]})"
        axis.set_title(title, fontsize=9, color=_GOOD if guess == label else _BAD)
    return save_figure(figure, path, made_by="timm-moex predict")
