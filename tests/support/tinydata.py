"""A few images of the packaged Fashion-MNIST sample, as a folder that timm reads as torch/fashion_mnist."""

from pathlib import Path

import numpy as np

from timm_moex.training.datasets import sample_dir
from timm_moex.training.recipe import Recipe


def write_tiny(root: Path, train: int = 48, test: int = 20) -> Path:
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    source = sample_dir() / "FashionMNIST" / "raw"
    for split, count in (("train", train), ("t10k", test)):
        for kind, header, size in (("images-idx3", 16, 28 * 28), ("labels-idx1", 8, 1)):
            whole = (source / f"{split}-{kind}-ubyte").read_bytes()
            head = bytearray(whole[:header])
            head[4:8] = np.array(count, ">i4").tobytes()
            (raw / f"{split}-{kind}-ubyte").write_bytes(bytes(head) + whole[header : header + count * size])
    return root


def tiny_recipe(data_dir: Path, **settings) -> Recipe:
    """A recipe for a network of 0.5 M parameters on the tiny images, with every source of randomness switched on."""
    base = dict(
        model="moex_test_resnet",
        model_kwargs={"moex_prob": 0.5},
        data_dir=str(data_dir),
        dataset="torch/fashion_mnist",
        num_classes=10,
        in_chans=1,
        input_size=[1, 28, 28],
        mean=[0.286],
        std=[0.353],
        crop_pct=1.0,
        device="cpu",
        batch_size=16,
        epochs=3,
        lr=0.01,
        warmup_epochs=0,
        color_jitter=0.0,
        drop=0.1,
        workers=0,
    )
    return Recipe("tiny", base | settings)
