"""Compare baseline, Mixup, CutMix, MoEx and CutMix + MoEx on Fashion-MNIST with one recipe and the same seeds.

    python -m benchmarks.study ablate --preset cpu-small --parallel 2 --threads 1    # validation images only
    python -m benchmarks.study run --preset cpu-small --parallel 2 --threads 1       # the test images, once per run
    python -m benchmarks.study run --preset full --device cuda --parallel 12         # on one GPU

`presets.yaml` contains the settings. Both commands can be stopped and resumed. The result is taken from the last epoch.
Results are written to ablation.csv and study.csv, and curves (training loss, accuracy on the monitored images) to
curves.csv, all in benchmarks/results. The monitored images are validation images, or training images if the preset
trains on all of them.
"""

import argparse
import itertools
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from timm.data import resolve_data_config
from torch import nn

from timm_moex.comparison.methods import apply_method
from timm_moex.training.datasets import open_dataset
from timm_moex.training.evaluate import evaluate
from timm_moex.training.loaders import create_eval_loader
from timm_moex.training.recipe import load_recipe
from timm_moex.utils.devices import pick_device
from timm_moex.utils.messages import did_you_mean

from .._results import RESULTS, ROOT
from ._idx import draw, read_split, write_split
from ._rows import presets
from ._runs import Job, run_jobs

SOURCE = Path("/usr/share/datasets/fashion-mnist")  # Debian package dataset-fashion-mnist
PAD = 4  # padding of the crops in pixels, if the preset does not set it
SPLIT_SEED = 0
MONITORED_PER_CLASS = 500
TEST_BATCH = 250
# Factors in ablation.csv that are candidates for the setting of each method
CANDIDATES = {
    "mixup": ("Mixup alpha",),
    "cutmix": ("CutMix probability",),
    "moex": ("reference", "published for CIFAR", "p", "lam"),
    "cutmix_moex": ("CutMix probability, p",),
}
NO_CANDIDATES = (("p", "0.0"), ("lam", "1.0"))  # the baseline; MoEx without mixed labels
Planned = tuple[dict[str, str], int, list[str]]  # first columns of the line, seed, changes to the recipe


def prepare(source: Path, folder: Path, train_per_class: int, validation_per_class: int) -> Path:
    """Write `fit` (training images, and monitored images as its evaluation part) and `test` into `folder`, once.

    The draw depends only on `SPLIT_SEED`. Without validation images, training images are monitored.
    """
    if folder.exists():
        return folder
    size, pixels, labels = read_split(source, "train")
    rng = random.Random(SPLIT_SEED)
    chosen = draw(labels, train_per_class, rng)
    if validation_per_class:
        monitored = draw(labels, validation_per_class, rng, without=frozenset(chosen))
    else:
        monitored = draw(labels, MONITORED_PER_CLASS, rng)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary) / folder.name
        write_split(new / "fit", "train", size, pixels, labels, chosen)
        write_split(new / "fit", "t10k", size, pixels, labels, monitored)
        test_size, test_pixels, test_labels = read_split(source, "t10k")
        write_split(new / "test", "t10k", test_size, test_pixels, test_labels, list(range(len(test_labels))))
        write_split(new / "test", "train", size, pixels, labels, chosen[:1])  # torchvision requires both parts
        try:
            new.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise a parallel command has already written the same split
                raise
    return folder


def evaluate_test(model: nn.Module, job: Job) -> dict[str, float]:
    """Compute top-1 in percent and cross-entropy on all test images."""
    args = job.recipe.arguments()
    device = pick_device(args.device)
    dataset = open_dataset(args.dataset, Path(args.data_dir).with_name("test"), "validation", input_img_mode="L")
    loader = create_eval_loader(dataset, resolve_data_config({}, model=model), TEST_BATCH, device=device)
    metrics = evaluate(model.to(device), loader, device)
    return {"test_top1": round(metrics["top1"], 2), "test_loss": round(metrics["loss"], 4)}


def evaluate_nothing(model: nn.Module, job: Job) -> dict[str, float]:
    """Return no columns: settings are chosen by the monitored validation images, never by the test images."""
    return {}


def best_candidates(rows: Sequence[Mapping[str, str]], preset: str, seeds: Sequence[int]) -> dict[str, str]:
    """Map each method to `settings` (see `Job.settings`) of its candidate with the best validation accuracy.

    Args:
        rows: Lines of ablation.csv.
        preset: Preset of the candidates.
        seeds: Seeds to average over; every candidate must have them.
    """
    best = {}
    for method, factors in CANDIDATES.items():
        top1: dict[str, dict[str, float]] = defaultdict(dict)
        for row in rows:
            line = (row["factor"], row["value"])
            if row["preset"] == preset and line[0] in factors and line not in NO_CANDIDATES:
                top1[row["settings"]][row["seed"]] = float(row["monitored_top1"])
        best[method] = max(top1, key=lambda settings, of=top1: sum(of[settings][str(seed)] for seed in seeds))
    return best


def methods_and_seeds(preset: str, config: Mapping[str, Any]) -> Iterator[Planned]:
    """Yield the preset's runs, all methods of a seed before the next seed."""
    for model, seeds in config["models"].items():
        for seed, (method, changes) in itertools.product(seeds, config["methods"].items()):
            yield {"preset": preset, "model": model, "method": method}, seed, changes


def candidates_and_seeds(preset: str, config: Mapping[str, Any]) -> Iterator[Planned]:
    """Yield the preset's ablation, all candidates of a seed before the next seed."""
    if "ablation" not in config:
        raise ValueError(f"--preset {preset}: presets.yaml has no ablation for it")
    ablation = config["ablation"]
    variants = {("reference", ""): ablation["reference"]}
    for factor, values in ablation["factors"].items():
        variants |= {(factor, str(value).lower()): changes for value, changes in values.items()}
    for seed, ((factor, value), changes) in itertools.product(ablation["seeds"], variants.items()):
        yield {"preset": preset, "model": ablation["model"], "factor": factor, "value": value}, seed, changes


def jobs_of(preset: str, what: str, options: argparse.Namespace) -> list[Job]:
    """Write the images and list the runs of `run` or `ablate`, in order."""
    config = presets()[preset]
    hold_out = config["validation_per_class"] or (MONITORED_PER_CLASS if what == "ablate" else 0)
    train_per_class = min(config["train_per_class"], 6000 - hold_out)
    source = options.source or ROOT / config.get("source", SOURCE)
    folder = options.output / f"data-{preset}-{train_per_class}-{hold_out}"
    data = prepare(source, folder, train_per_class, hold_out)
    common = dict(data_dir=str(data / "fit"), device=options.device, workers=0, in_memory=True)
    common["pad"] = config.get("pad", PAD)
    jobs = []
    for columns, seed, changes in (candidates_and_seeds if what == "ablate" else methods_and_seeds)(preset, config):
        recipe = load_recipe(config["recipe"]).override(config.get("settings", ()), **common)
        recipe = recipe.override(seed=seed, model=f"moex_{columns['model']}")
        recipe = apply_method(recipe, changes).override(options.set)
        columns |= {"seed": str(seed)}
        name = "-".join(columns.values()).replace(", ", "-").replace(" ", "_")
        jobs.append(Job(columns, recipe, options.output / what / name))
    return jobs


def selected(jobs: list[Job], options: argparse.Namespace) -> list[Job]:
    """Keep the jobs that match --models, --seeds and --only.

    Raises:
        ValueError: A word matches no run of the preset.
    """
    for flag, words, columns in (
        ("models", options.models, ("model",)),
        ("seeds", options.seeds, ("seed",)),
        ("only", options.only, ("method", "factor")),
    ):
        known = {job.columns[column] for job in jobs for column in columns if column in job.columns}
        for word in words or ():
            if word not in known:
                raise ValueError(
                    f"--{flag} {word}: expected one of {', '.join(sorted(known))}{did_you_mean(word, known)}"
                )
        if words:
            jobs = [job for job in jobs if {job.columns.get(column) for column in columns} & set(words)]
    return jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "ablate"))
    parser.add_argument("--preset", choices=presets(), default="cpu-small")
    parser.add_argument("--source", type=Path, help=f"folder of the IDX files; default: the preset's, or {SOURCE}")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "study", help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV")
    parser.add_argument("--models", nargs="+", help="only these models")
    parser.add_argument("--seeds", nargs="+", help="only these seeds")
    parser.add_argument("--only", nargs="+", help="only these methods or factors")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, help="PyTorch threads of each run")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the recipe, for a trial")
    options = parser.parse_args()
    jobs = selected(jobs_of(options.preset, options.what, options), options)
    name, look = ("study", evaluate_test) if options.what == "run" else ("ablation", evaluate_nothing)
    run_jobs(jobs, look, options.results / f"{name}.csv", parallel=options.parallel, threads=options.threads)


if __name__ == "__main__":
    main()
