"""Top-1, top-5 and loss of a model, exact over every sample, in total, per class and per group."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["evaluate", "first_samples", "flat_metrics", "is_per_class", "write_per_class"]

_PER_CLASS = ("class", "images", "correct", "top1")


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, ...]],
    device: torch.device | str,
    *,
    amp_dtype: torch.dtype | None = None,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
    columns: Sequence[int] | None = None,
    per_class: bool = False,
    groups: Sequence[str] = (),
    gather: Callable[[list], list[list]] = lambda sums: [sums],
) -> dict[str, Any]:
    """Evaluate a classifier, weighting every sample equally even if the last batch is short.

    Args:
        model: Maps images (B, C, H, W) to logits (B, classes); left in eval mode.
        loader: Yields images and class indices (B,), every sample once; with `groups`, also the numbers of the
            groups, (B,).
        device: Device of the model.
        amp_dtype: Type for autocast; None disables it.
        dtype: Type of the images; None keeps the loader's type.
        channels_last: Memory format of the images.
        columns: Indices of the logits to use; the labels are then positions in this list. None for all logits.
        per_class: Whether to also count per class.
        groups: Names of the groups in the order of their numbers.
        gather: Collects the sums of all processes, each of which evaluates its share, see `Processes.gather`.

    Returns:
        `loss` (mean cross-entropy), `top1` and `top5` in percent (with fewer than 5 classes: over all), `count`; with
        `per_class` also `images` and `correct` (top-1), numbers of images per class; with `groups` also
        `top1_by_group` and `count_by_group`, which map the names of groups with images to their values.
    """
    device = torch.device(device)
    autocast = nullcontext() if amp_dtype is None else torch.autocast(device.type, dtype=amp_dtype)
    memory_format = torch.channels_last if channels_last else torch.preserve_format
    model.eval()
    losses, hits1, hits5, labels, count = [], [], [], [], 0
    group_ids: list[Tensor] = []
    for images, target, *ids in loader:
        images = images.to(device=device, dtype=dtype, memory_format=memory_format)
        target = target.to(device)
        with autocast:
            output = model(images)
        if columns is not None:
            output = output[:, columns]
        hit = output.topk(min(5, output.shape[1]), dim=1).indices == target[:, None]  # (B, 5)
        known = target.clamp(0, output.shape[1] - 1)  # checked below: a check in each batch would block
        losses.append(F.cross_entropy(output.float(), known, reduction="sum"))
        hits1.append(hit[:, 0])
        hits5.append(hit.sum())
        labels.append(target)
        group_ids += ids if groups else ()
        count += len(target)
    if not count:
        raise ValueError("loader: no samples to evaluate")
    hit1, target, classes = torch.cat(hits1).cpu(), torch.cat(labels).cpu(), output.shape[1]
    if wrong := target[(target < 0) | (target >= classes)].tolist():
        raise ValueError(f"loader: the label {wrong[0]} is out of range for logits of {classes} classes")
    sums = [torch.stack(values).cpu().double().sum().item() for values in (losses, hits5)]
    sums += [hit1.sum().item(), count]
    if groups:
        images_of, hits_of = _count(torch.cat(group_ids).cpu(), hit1, len(groups))
        sums += images_of + hits_of
    loss, top5, top1, count, *by_group = (sum(shares) for shares in zip(*gather(sums)))
    percent = {"top1": 100 * top1 / count, "top5": 100 * top5 / count}
    metrics: dict[str, Any] = {"loss": loss / count} | percent | {"count": count}
    if per_class:
        metrics["images"], metrics["correct"] = _count(target, hit1, classes)
    if groups:
        found = {name: (n, right) for name, n, right in zip(groups, by_group, by_group[len(groups) :]) if n}
        metrics["top1_by_group"] = {name: 100 * right / n for name, (n, right) in found.items()}
        metrics["count_by_group"] = {name: n for name, (n, _) in found.items()}
    return metrics


def _count(labels: Tensor, hits: Tensor, count: int) -> tuple[list[int], list[int]]:
    """Count the samples and the hits of each label."""
    return labels.bincount(minlength=count).tolist(), labels[hits].bincount(minlength=count).tolist()


def flat_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten metrics to the columns of a table, such as top1 and top1_by_group.photo."""
    flat: dict[str, Any] = {}
    for key, value in metrics.items():
        flat |= {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, Mapping) else {key: value}
    return flat


def first_samples(loader: Iterable[tuple[Tensor, ...]], count: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield the first `count` samples of a loader, in its batches; the last batch may be cut."""
    for batch in loader:
        if count > 0:
            yield tuple(part[:count] for part in batch)
        count -= len(batch[1])


def write_per_class(path: str | Path, names: Sequence[str], metrics: Mapping[str, Any]) -> None:
    """Write a CSV with a row for each class that has images; `names` are in the order of the labels."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(_PER_CLASS)
        for name, images, correct in zip(names, metrics["images"], metrics["correct"]):
            if images:
                rows.writerow([name, images, correct, f"{100 * correct / images:.2f}"])


def is_per_class(path: Path) -> bool:
    """Return whether a file was written by `write_per_class`."""
    with path.open("rb") as file:
        return file.readline().strip() == ",".join(_PER_CLASS).encode()
