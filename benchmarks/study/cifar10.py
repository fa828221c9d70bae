"""CIFAR-10 with few labels: does MoEx lower the test error, next to CutMix?

    python -m benchmarks.study.cifar10 --data CIFAR10 --jobs 2          20 runs of about 11 minutes of one core; resumes

CIFAR10 contains train/CLASS and test/CLASS with all 60,000 images as JPEG, so compare only with runs on the same files.
The first 400 files of each class are the training images, the next 100 are monitored. Every run is tested once, after
its last epoch, on all 10,000 test images. `timm_moex.compare` trains, tests and reports; the recipe is cifar10.yaml.

Written down before the first run:

- 4,000 labels are the usual split size of the semi-supervised literature. resnet20_cifar, padded crops and flips, 60
  epochs. Nothing is selected: probabilities and lambdas are the paper's for CIFAR (MoEx 0.25 and 0.5, CutMix 0.5) and
  for CutMix + MoEx (0.25 and 0.9), as in the study on Fashion-MNIST. Learning rate and weight decay are the usual ones.
- Seeds 40 to 44. Runs with the same seed share their initial weights, crops, flips and the order of the images.
- Primary outcome: test error of MoEx minus baseline, mean of the pairs, 95 % interval (Student's t).
- Prediction: -1 point for MoEx, -3 for CutMix, and less than 0.5 points between CutMix with and without MoEx. Reason:
  on 2,000 images of Fashion-MNIST, which this net also overfits, they were -0.67, -1.60 and 0.
- The curve by size: baseline and MoEx on 1,000 and 20,000 labels, seeds 40 and 41, as many steps as with 4,000
  (`--labels 1000`, `--labels 20000`). Prediction: a larger gain on 1,000, none that two seeds can show on 20,000.
"""

import argparse
from pathlib import Path

import torch

from timm_moex import compare

from .._results import RESULTS, append_rows, environment, read_rows

METHODS = (
    "baseline",
    "moex",
    "cutmix",
    "cutmix+moex: moex_prob=0.25 moex_lam=0.9 cutmix=1.0 mixup=0.0 mixup_prob=0.5",
)
SEEDS = range(40, 45)
EPOCHS = {4000: 60, 1000: 240, 20000: 12}  # the same number of steps
MONITORED = 100  # of each class


def link_images(source: Path, labels: int, folder: Path) -> Path:
    """Link the images of a run's splits into train, val and test of a folder; return the folder."""
    parts = {"train": ("train", 0, labels // 10), "val": ("train", labels // 10, labels // 10 + MONITORED)}
    for split, (origin, first, last) in (parts | {"test": ("test", 0, 1000)}).items():
        classes = sorted(path for path in (source / origin).iterdir() if path.is_dir())
        if len(classes) != 10:
            raise ValueError(f"{source / origin} has {len(classes)} folders: expected the 10 classes of CIFAR-10")
        for images in classes:
            (folder / split / images.name).mkdir(parents=True, exist_ok=True)
            for path in sorted(images.iterdir())[first:last]:
                link = folder / split / images.name / path.name
                if not link.is_symlink():
                    link.symlink_to(path.resolve())
    return folder


def study_row(labels: int, row: dict[str, str], code: dict[str, str]) -> dict[str, str]:
    """Add the number of labels, the seconds and, from this process, processor and commit; the rest is the run's own."""
    seconds = f"{float(row['seconds_per_epoch']) * int(row['epochs']):.0f}"
    return {"labels": str(labels)} | row | {"seconds": seconds} | {key: code[key] for key in ("processor", "commit")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 with train/CLASS and test/CLASS")
    parser.add_argument("--labels", type=int, choices=EPOCHS, default=4000, help="training images (default: 4000)")
    parser.add_argument("--output", type=Path, default=Path("output/cifar10"), help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each with one thread")
    args = parser.parse_args()
    place = args.output / str(args.labels)
    main_study = args.labels == 4000
    compare(
        Path(__file__).with_suffix(".yaml"),
        link_images(args.data, args.labels, place / "images"),
        methods=METHODS if main_study else METHODS[:2],
        seeds=list(SEEDS if main_study else SEEDS[:2]),
        settings=[f"epochs={EPOCHS[args.labels]}"],
        output=place / "runs",
        jobs=args.jobs,
        device="cpu",
        test_split="test",
    )
    done = {(row["labels"], row["method"], row["seed"]) for row in read_rows("cifar10")}
    code = environment(torch.device("cpu"), "timm_moex", "benchmarks/study")
    for row in read_rows("compare", place / "runs"):
        if (str(args.labels), row["method"], row["seed"]) not in done:
            append_rows(RESULTS / "cifar10.csv", [study_row(args.labels, row, code)])


if __name__ == "__main__":
    main()
