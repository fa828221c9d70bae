"""Draw the Fashion-MNIST sample in the package: 6,000 training and 1,000 test images, balanced.

The full set comes from the Debian package dataset-fashion-mnist (`apt-get install dataset-fashion-mnist`):

    python -m benchmarks.study.make_sample --source /usr/share/datasets/fashion-mnist --output timm_moex/training/sample

The files are plain IDX, which timm reads by `--dataset torch/fashion_mnist`. The draw depends only on the seed, so
repeating it gives the same bytes.
"""

import argparse
import random
from pathlib import Path

from ._idx import draw, read_split, write_split

PER_CLASS = {"train": 600, "t10k": 100}
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with the four .gz files")
    parser.add_argument("--output", type=Path, required=True, help="folder for FashionMNIST/raw/ with four IDX files")
    args = parser.parse_args()
    rng = random.Random(SEED)
    for split, per_class in PER_CLASS.items():
        size, pixels, labels = read_split(args.source, split)
        chosen = draw(labels, per_class, rng)
        write_split(args.output, split, size, pixels, labels, chosen)
        print(f"{split}: {len(chosen)} images, {per_class} of each class")


if __name__ == "__main__":
    main()
