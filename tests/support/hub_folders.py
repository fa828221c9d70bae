"""Small folders in the Hub's layout, for tests that process them."""

from pathlib import Path

import timm
import torch

from timm_moex.hub import save_folder

CONFIG = dict(input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="bicubic", crop_pct=1.0)
TOP1 = {"value": 81.5, "mean": 81.0, "std": 0.5}


def write_folder(path: Path, architecture: str = "test_resnet", seed: int = 0, num_classes: int = 10, **card) -> Path:
    """Write a folder as training does; `card` adds facts to its card or, with None, removes them."""
    torch.manual_seed(seed)
    model = timm.create_model(architecture, num_classes=num_classes)
    facts = dict(dataset="torch/cifar10", split="test", license="mit", top1=TOP1, seeds=[0, 1, 2], recipe={"lr": 0.1})
    return save_folder(model, path, CONFIG, card=facts | card)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
