"""Draw the Fashion-MNIST sample that the package carries: 6,000 training and 1,000 test images, balanced.

The full set comes from the Debian package dataset-fashion-mnist (`apt-get install dataset-fashion-mnist`):

    python benchmarks/make_sample.py --source /usr/share/datasets/fashion-mnist --output timm_moex/sample

The files are written as plain IDX, so that timm's own reader takes the folder as `--dataset torch/fashion_mnist`.
The draw depends only on the seed: running it again gives the same bytes.
"""
import argparse
import gzip
import random
import struct
from pathlib import Path

PER_CLASS = {"train": 600, "t10k": 100}
SEED = 0


def read_idx(path: Path) -> tuple[tuple[int, ...], bytes]:
    """Shape and data of a gzipped IDX file of unsigned bytes."""
    raw = gzip.decompress(path.read_bytes())
    ndim = raw[3]
    return struct.unpack(f">{ndim}I", raw[4 : 4 + 4 * ndim]), raw[4 + 4 * ndim :]


def write_idx(path: Path, shape: tuple[int, ...], data: bytes) -> None:
    """Write unsigned bytes as IDX: two zero bytes, type 8 (ubyte), the dimensions, the data."""
    path.write_bytes(struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape) + data)


def draw(labels: bytes, per_class: int, rng: random.Random) -> list[int]:
    """Indices of `per_class` samples of every class, in the order of the full set."""
    chosen = []
    for label in sorted(set(labels)):
        chosen += rng.sample([i for i, value in enumerate(labels) if value == label], per_class)
    return sorted(chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with the four .gz files")
    parser.add_argument("--output", type=Path, required=True, help="gets FashionMNIST/raw/ with four IDX files")
    args = parser.parse_args()
    raw = args.output / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    rng = random.Random(SEED)
    for split, per_class in PER_CLASS.items():
        _, labels = read_idx(args.source / f"{split}-labels-idx1-ubyte.gz")
        (_, height, width), images = read_idx(args.source / f"{split}-images-idx3-ubyte.gz")
        chosen, size = draw(labels, per_class, rng), height * width
        write_idx(raw / f"{split}-labels-idx1-ubyte", (len(chosen),), bytes(labels[i] for i in chosen))
        pixels = b"".join(images[i * size : (i + 1) * size] for i in chosen)
        write_idx(raw / f"{split}-images-idx3-ubyte", (len(chosen), height, width), pixels)
        print(f"{split}: {len(chosen)} images, {per_class} of each class")


if __name__ == "__main__":
    main()
