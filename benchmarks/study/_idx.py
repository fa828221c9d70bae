"""Read and write IDX files, the format of Fashion-MNIST, and draw balanced parts of them."""

import gzip
import random
import struct
from pathlib import Path

PARTS = ("images-idx3-ubyte", "labels-idx1-ubyte")


def read_idx(path: Path) -> tuple[tuple[int, ...], bytes]:
    """Read the shape and data of an IDX file of unsigned bytes, gzipped or not."""
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    ndim = raw[3]
    return struct.unpack(f">{ndim}I", raw[4 : 4 + 4 * ndim]), raw[4 + 4 * ndim :]


def write_idx(path: Path, shape: tuple[int, ...], data: bytes) -> None:
    """Write unsigned bytes as IDX: two zero bytes, type 8 (ubyte), the dimensions, the data."""
    path.write_bytes(struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape) + data)


def read_split(source: Path, split: str) -> tuple[tuple[int, int], bytes, bytes]:
    """Read (height, width), pixels and labels of `train` or `t10k` in a folder of IDX files.

    Raises:
        FileNotFoundError: A file is missing, both plain and gzipped.
    """
    found = []
    for part in PARTS:
        names = (f"{split}-{part}", f"{split}-{part}.gz")
        file = next((source / name for name in names if (source / name).is_file()), None)
        if file is None:
            raise FileNotFoundError(f"source={str(source)!r} has no {names[0]}[.gz] (Debian: dataset-fashion-mnist)")
        found.append(read_idx(file))
    (shape, pixels), (_, labels) = found
    return shape[1:], pixels, labels


def write_split(
    folder: Path, split: str, size: tuple[int, int], pixels: bytes, labels: bytes, chosen: list[int]
) -> None:
    """Write the images `chosen` and their labels as `split` of a folder that timm reads as `torch/fashion_mnist`."""
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    area = size[0] * size[1]
    images = b"".join(pixels[i * area : (i + 1) * area] for i in chosen)
    write_idx(raw / f"{split}-{PARTS[0]}", (len(chosen), *size), images)
    write_idx(raw / f"{split}-{PARTS[1]}", (len(chosen),), bytes(labels[i] for i in chosen))


def draw(labels: bytes, per_class: int, rng: random.Random, without: frozenset[int] = frozenset()) -> list[int]:
    """Draw the indices of `per_class` samples of every class, in increasing order, without those in `without`."""
    chosen = []
    for label in sorted(set(labels)):
        of_class = [i for i, value in enumerate(labels) if value == label and i not in without]
        chosen += rng.sample(of_class, per_class)
    return sorted(chosen)
