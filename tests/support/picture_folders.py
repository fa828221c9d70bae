"""Small folders of single-colour pictures, and a recipe that learns a class from its colour."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from timm_moex.training.recipe import Recipe

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def write_pictures(root: Path, folders: Mapping[str, tuple[int, int, int]], count: int = 5) -> Path:
    """Write `count` pictures into each folder (a path relative to `root`), of the colour that it maps to."""
    for folder, colour in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", (32, 32), colour).save(root / folder / f"{i}.png")
    return root


def write_groups(root: Path, groups: str = "ABC", classes: str = "xy", count: int = 5) -> Path:
    """Write GROUP/CLASS/0.png, …"""
    colours = dict(zip(classes, (RED, GREEN, BLUE)))
    return write_pictures(root, {f"{group}/{name}": colours[name] for group in groups for name in classes}, count)


def picture_recipe(data_dir: Path, **settings: Any) -> Recipe:
    """A net that learns the colours within a few steps."""
    base = dict(
        model="moex_test_resnet",
        model_kwargs={"moex_prob": 0.0},
        data_dir=str(data_dir),
        input_size=[3, 32, 32],
        num_classes=2,
        device="cpu",
        batch_size=4,
        epochs=1,
        lr=0.01,
        warmup_epochs=0,
        color_jitter=0.0,
        workers=0,
        scale=[0.9, 1.0],
    )
    return Recipe("pictures", base | settings)
