"""Measure error and calibration (ECE) of a study's checkpoints on clean and corrupted test images.

    python -m benchmarks.study.robustness --runs output/study/run --images 2000      # appends to robustness.csv
    python -m benchmarks.study.robustness --runs output/study/run --picture FILE     # draws the corruptions

`--runs` contains the folders that `benchmarks.study run` writes, `<preset>-<model>-<method>-<seed>`; those without
`hub/` are not trained yet and are skipped. A fixed seed draws the images from the preset's test images
(`data-<preset>-*/test` next to the runs), with equal numbers per class and the same images for all checkpoints. The
error on clean images is therefore close, but not equal, to the study's error over all test images. Existing lines are
not measured again. Error and ECE are in percent; `clean` has severity 0; `weights` contains the first digits of the
SHA-256 of the weights. corruptions.py defines the corruptions, and the CSV is in benchmarks/results.
"""

import argparse
import hashlib
import itertools
import random
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

import torch
from timm.data import resolve_data_config
from torch import Tensor, nn

from timm_moex.hub import load_model
from timm_moex.training.evaluate import evaluate
from timm_moex.utils.devices import pick_device
from timm_moex.utils.messages import did_you_mean

from .._results import RESULTS, ROOT, append_rows, environment, read_rows
from ._idx import draw, read_split
from .corruptions import CORRUPTIONS, SEVERITIES, corrupt

IMAGES = 2000
SEED = 0  # draws the images and the corruptions
BATCH = 100
BINS = 15
SHOWN = (0, 3, 7, 8)  # T-shirt, dress, sneaker, bag
CLEAN = ("clean", 0)
CONDITIONS = [CLEAN, *((kind, severity) for kind in CORRUPTIONS for severity in SEVERITIES)]


def balanced_images(folder: Path, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Draw a balanced part of the test images.

    Args:
        folder: Folder of the dataset `torch/fashion_mnist`.
        count: Number of images, a multiple of the number of classes. None: `IMAGES`, or fewer if there are fewer.

    Returns:
        Images (count, 1, H, W), uint8, and labels (count,), int64.

    Raises:
        ValueError: `count` is not such a multiple, or exceeds the number of images.
    """
    (height, width), pixels, labels = read_split(folder / "FashionMNIST" / "raw", "t10k")
    classes, most = len(set(labels)), min(labels.count(label) for label in set(labels))
    count = min(IMAGES, classes * most) if count is None else count
    if count < 1 or count % classes or count // classes > most:
        raise ValueError(f"images={count}: expected a multiple of {classes}, at most {most * classes}")
    chosen = draw(labels, count // classes, random.Random(SEED))
    images = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(-1, 1, height, width)
    return images[chosen], torch.tensor([labels[i] for i in chosen])


def calibration_error(confidence: Tensor, correct: Tensor, bins: int = BINS) -> float:
    """Compute the expected calibration error (Guo et al., ICML 2017, arXiv 1706.04599), from 0 to 1.

    Args:
        confidence: (N,), probability of the predicted class.
        correct: (N,), bool, whether the prediction is correct.
        bins: Number of bins of equal width; a bin contains its upper edge, not its lower.

    Returns:
        Mean over the bins of |accuracy - mean confidence|, weighted by their samples.
    """
    index = (confidence.double() * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gap = correct.double() - confidence.double()
    return torch.bincount(index, gap, minlength=bins).abs().sum().item() / len(gap)


def measure(model: nn.Module, images: Tensor, target: Tensor, device: torch.device) -> dict[str, float]:
    """Measure error and ECE in percent.

    Args:
        model: A classifier on `device`, with its preprocessing in its `pretrained_cfg`.
        images: (N, C, H, W), uint8, of the model's input size.
        target: (N,), labels.
        device: Device of the model.

    Raises:
        ValueError: The images do not have the model's input size.
    """
    config = resolve_data_config({}, model=model)
    if tuple(images.shape[1:]) != tuple(config["input_size"]):
        raise ValueError(f"images of {tuple(images.shape[1:])} for a model that takes {tuple(config['input_size'])}")
    mean, std = (255 * torch.tensor(config[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    loader = (((x - mean) / std, y) for x, y in zip(images.split(BATCH), target.split(BATCH)))
    outputs: list[Tensor] = []
    with model.register_forward_hook(lambda module, inputs, output: outputs.append(output)):
        error = 100 - evaluate(model, loader, device, channels_last=True)["top1"]
    confidence, predicted = torch.cat(outputs).float().cpu().softmax(1).max(1)
    return {"error": round(error, 2), "ece": round(100 * calibration_error(confidence, predicted == target), 2)}


def checkpoints(runs: Path, only: Collection[str] = ()) -> list[tuple[dict[str, str], Path]]:
    """List the trained runs in a folder: identifying columns and the path from which timm loads each.

    Args:
        runs: The folder.
        only: Presets, models, methods or seeds; a run must match one of them. Empty for all runs.

    Raises:
        ValueError: The folder contains no runs, no run matches a word of `only`, or a name has another form.
    """
    found = []
    for hub in sorted(runs.glob("*/hub")):
        parts = hub.parent.name.rsplit("-", 3)
        if len(parts) != 4:
            raise ValueError(f"{hub.parent}: expected a name as <preset>-<model>-<method>-<seed>")
        found.append((dict(zip(("preset", "model", "method", "seed"), parts)), hub))
    if not found:
        raise ValueError(f"runs={str(runs)!r}: no folder in it contains hub/")
    names = {value for columns, _ in found for value in columns.values()}
    for name in only:
        if name not in names:
            raise ValueError(f"only={name!r}: no such run in {str(runs)!r}{did_you_mean(name, names)}")
    return [(columns, hub) for columns, hub in found if not only or set(only) & set(columns.values())]


def lines_of(columns: dict[str, str], rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Select the lines of one checkpoint."""
    return [row for row in rows if all(row[key] == value for key, value in columns.items())]


def waiting(columns: dict[str, str], facts: dict[str, str], rows: list[dict[str, str]]) -> list[tuple[str, int]]:
    """List the conditions for which a checkpoint has no line.

    Args:
        columns: Columns that identify the checkpoint.
        facts: `images` and `weights`, which its lines must have.
        rows: Lines of the CSV.

    Raises:
        ValueError: Its lines have other images or weights.
    """
    same = lines_of(columns, rows)
    for row in same:
        if any(row[key] != value for key, value in facts.items()):
            there = {key: row[key] for key in facts}
            raise ValueError(
                f"the lines of {columns} have {there}, now {facts}; remove them or use another folder with --results"
            )
    done = {(row["corruption"], int(row["severity"])) for row in same}
    return [condition for condition in CONDITIONS if condition not in done]


def robustness(
    found: Iterable[tuple[dict[str, str], Path]], images: Tensor, target: Tensor, device: torch.device, results: Path
) -> None:
    """Measure the missing conditions of every checkpoint and append each to `<results>/robustness.csv`.

    Args:
        found: Checkpoints, see `checkpoints`.
        images: (N, C, H, W), uint8, clean.
        target: (N,), labels.
        device: Device of the models.
        results: Folder of the CSV.

    Raises:
        ValueError: See `measure` and `waiting`.
    """
    where = environment(device, "timm_moex", "benchmarks/study/corruptions.py", "benchmarks/study/robustness.py")

    @cache  # once for all checkpoints
    def corrupted(kind: str, severity: int) -> Tensor:
        return images if (kind, severity) == CLEAN else corrupt(images, kind, severity, SEED)

    for columns, hub in found:
        digest = hashlib.sha256((hub / "model.safetensors").read_bytes()).hexdigest()[:8]
        facts = {"images": str(len(images)), "weights": digest}
        conditions = waiting(columns, facts, read_rows("robustness", results))
        if not conditions:
            continue
        model = load_model(hub).to(device, memory_format=torch.channels_last)
        for kind, severity in conditions:
            figures = measure(model, corrupted(kind, severity), target, device)
            place = {"corruption": kind, "severity": str(severity)}
            append_rows(results / "robustness.csv", [columns | place | figures | facts | where])
        means = summary(lines_of(columns, read_rows("robustness", results)))
        print(" ".join(columns.values()), *(f"{key} {value:.2f}" for key, value in means.items()), flush=True)


def summary(rows: list[dict[str, str]]) -> dict[str, float]:
    """Compute error and ECE of a checkpoint on clean images, and their means over all corruptions."""
    means = {}
    for key in ("error", "ece"):
        clean = [float(row[key]) for row in rows if row["corruption"] == CLEAN[0]]
        corrupted = [float(row[key]) for row in rows if row["corruption"] != CLEAN[0]]
        means |= {f"clean_{key}": sum(clean) / len(clean), f"corrupted_{key}": sum(corrupted) / len(corrupted)}
    return means


def picture(images: Tensor, file: Path) -> None:
    """Draw images (N, 1 or 3, H, W), uint8, under all conditions: a row per kind, a block per severity."""
    from matplotlib.figure import Figure

    def block(kind: str, severity: int) -> Tensor:
        shown = corrupt(images, kind, severity, SEED) if severity else images
        return torch.nn.functional.pad(torch.cat(list(shown), dim=-1), (0, 4, 0, 2), value=255)  # (C, H, N * W)

    severities = (0, *SEVERITIES)
    canvas = torch.cat([torch.cat([block(kind, s) for s in severities], -1) for kind in CORRUPTIONS], -2)
    _, height, width = canvas.shape
    figure = Figure((width / 50, height / 50), layout="constrained")
    axes = figure.subplots()
    axes.imshow(canvas.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([width / 6 * (i + 0.5) for i in range(6)], ["clean", *(f"severity {s}" for s in SEVERITIES)])
    axes.xaxis.tick_top()
    names = [name.replace("_", " ") for name in CORRUPTIONS]
    axes.set_yticks([height / len(names) * (i + 0.5) for i in range(len(names))], names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.savefig(file, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    output = ROOT / "output" / "study"
    parser.add_argument(
        "--runs", type=Path, default=output / "run", help="folder of the study's runs; default: %(default)s"
    )
    parser.add_argument("--data", type=Path, help="the test images; default: data-<preset>-*/test next to --runs")
    parser.add_argument("--images", type=int, help=f"number of images; default: {IMAGES}, or all if fewer")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV")
    parser.add_argument("--only", nargs="+", default=[], help="only these presets, models, methods or seeds")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="PyTorch threads")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="only draw the corruptions to FILE")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    for preset, found in itertools.groupby(checkpoints(options.runs, options.only), lambda run: run[0]["preset"]):
        data = options.data or next(iter(sorted(options.runs.parent.glob(f"data-{preset}-*/test"))), None)
        if data is None:
            parser.error(f"no data-{preset}-*/test next to {options.runs}; give --data FOLDER")
        images, target = balanced_images(data, options.images)
        if options.picture:
            return picture(images[[(target == label).nonzero()[0].item() for label in SHOWN]], options.picture)
        robustness(found, images, target, pick_device(options.device), options.results)


if __name__ == "__main__":
    main()
