"""Draw the method at a glance, from two images of the packaged sample and a packaged checkpoint.

python docs/figures/method.py [FILE]
"""

import sys
from pathlib import Path
from typing import Any

import torch
from timm.data import resolve_data_config
from torch import Tensor

from timm_moex import find_moex, load_twin
from timm_moex.insertion.pair import exchange_pair
from timm_moex.pictures.exchange import COLOUR_A, COLOUR_B, show_image, show_map
from timm_moex.pictures.figure import new_figure, save_figure
from timm_moex.pictures.inputs import class_names, open_image, prepare_image, undo_normalisation
from timm_moex.training.datasets import open_dataset, sample_dir

CHECKPOINT, IMAGES = "resnet20_cifar.fmnist_sample", (0, 17)
SIZE, WIDTH, HEIGHT = 1.6, 15.4, 5.65  # of a picture and of the figure, in inches
COLUMNS = (0.35, 2.75, 5.0, 7.25, 9.75)  # left edges, in inches
ROWS = (3.1, 0.62)  # lower edges of A's row and B's
GREY = "#555555"


def draw(path: str | Path) -> Path:
    """Draw the figure and write it to `path`."""
    model = load_twin(CHECKPOINT)
    config, lam = resolve_data_config({}, model=model), find_moex(model).lam
    images = torch.stack([prepare_image(open_image(f"sample:{number}"), config) for number in IMAGES])
    pair = exchange_pair(model, images)
    mean, std = pair.position_moments()
    channel = int((pair.after - pair.before)[0].flatten(1).norm(dim=1).argmax())
    before, mixed = pair.before[:, channel], pair.after[0, channel]
    normalised = (before[0] - mean[0]) / std[0]
    sample = open_dataset("torch/fashion_mnist", sample_dir(), "validation")
    labels = [class_names(model)[sample[number][1]] for number in IMAGES]

    figure = new_figure(WIDTH, HEIGHT)
    figure.set_layout_engine("none")
    _words(figure, len(pair.before[0]))
    looks = undo_normalisation(images, config)
    for row, (letter, colour) in enumerate((("A", COLOUR_A), ("B", COLOUR_B))):
        show_image(_axis(figure, 0, row, colour, f"image {letter}: {labels[row]}"), looks[row])
        _map(figure, 1, row, colour, f"features of {letter}", before[row], before)
        _map(figure, 2, row, colour, f"mean of {letter}", mean[row], mean)
        _map(figure, 3, row, colour, f"standard deviation of {letter}", std[row], std)
        for column, sign in ((0, "→"), (1, "→" if row else "−"), (2, "" if row else "÷"), (3, "" if row else "=")):
            _sign(figure, column, row, sign)
    _map(figure, 4, 0, COLOUR_A, "A without its moments", normalised, normalised)
    _map(figure, 4, 1, "black", "A with B's moments", mixed, torch.stack([before[0], before[1], mixed]))
    _join(figure)
    _loss(figure, lam, labels)
    return save_figure(figure, path, dpi=130)


def _axis(figure: Any, column: int, row: int, colour: str, title: str) -> Any:
    left, bottom = COLUMNS[column], ROWS[row]
    axis = figure.add_axes((left / WIDTH, bottom / HEIGHT, SIZE / WIDTH, SIZE / HEIGHT))
    axis.set_title(title, fontsize=11.5, color=colour, pad=5)
    return axis


def _map(figure: Any, column: int, row: int, colour: str, title: str, values: Tensor, scale: Tensor) -> None:
    low, high = scale.flatten().quantile(torch.tensor([0.01, 0.99])).tolist()
    show_map(_axis(figure, column, row, colour, title), values, low, high)


def _text(figure: Any, x: float, y: float, words: str, **style: Any) -> None:
    style = {"ha": "center", "va": "center", "fontsize": 12} | style
    figure.text(x / WIDTH, y / HEIGHT, words, **style)


def _sign(figure: Any, column: int, row: int, sign: str) -> None:
    x = (COLUMNS[column] + SIZE + COLUMNS[column + 1]) / 2
    _text(figure, x, ROWS[row] + SIZE / 2, sign, fontsize=22, color=GREY)


def _words(figure: Any, channels: int) -> None:
    title = "in an early layer, an image takes on the feature moments of another, and part of its label"
    _text(figure, WIDTH / 2, HEIGHT - 0.3, f"Moment Exchange: {title}", fontsize=15)
    source = (
        f"Features of the packaged {CHECKPOINT} after its stem, one of {channels} channels. The mean and the standard "
        "deviation are those over the channels at each position (PONO)."
    )
    _text(figure, COLUMNS[0], 0.2, source, fontsize=10, color=GREY, ha="left")
    x = (COLUMNS[4] + SIZE + WIDTH) / 2
    formula = r"$\frac{x_A - \mathrm{mean}_A}{\mathrm{std}_A} \cdot \mathrm{std}_B + \mathrm{mean}_B$"
    _text(figure, x, ROWS[0] + SIZE / 2, formula, fontsize=19)


def _arrow(figure: Any, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    from matplotlib.patches import FancyArrowPatch

    scale = torch.tensor([WIDTH, HEIGHT])
    ends = [tuple((torch.tensor(point) / scale).tolist()) for point in (start, end)]
    style = dict(arrowstyle="-|>", mutation_scale=18, linewidth=2, color=colour, shrinkA=0, shrinkB=0)
    figure.add_artist(FancyArrowPatch(*ends, transform=figure.transFigure, **style))


def _join(figure: Any) -> None:
    """Arrows into the last picture: A's features from above, B's moments from the left."""
    middle = COLUMNS[4] + SIZE / 2
    _arrow(figure, (middle, ROWS[0] - 0.07), (middle, ROWS[1] + SIZE + 0.32), COLOUR_A)
    _arrow(figure, (COLUMNS[3] + SIZE + 0.1, ROWS[1] + SIZE / 2), (COLUMNS[4] - 0.1, ROWS[1] + SIZE / 2), COLOUR_B)
    x = (COLUMNS[3] + SIZE + COLUMNS[4]) / 2
    _text(figure, x, ROWS[1] + SIZE / 2 + 0.3, "× std\n+ mean", fontsize=11.5, color=COLOUR_B)


def _loss(figure: Any, lam: float, labels: list[str]) -> None:
    """The labels' shares, as a bar to the right of the last picture."""
    left, width, middle = COLUMNS[4] + SIZE + 0.75, 2.9, ROWS[1] + SIZE / 2
    _arrow(figure, (COLUMNS[4] + SIZE + 0.1, middle), (left - 0.1, middle), GREY)
    axis = figure.add_axes((left / WIDTH, (middle - 0.2) / HEIGHT, width / WIDTH, 0.4 / HEIGHT))
    axis.barh([0, 0], [lam, 1 - lam], left=[0, lam], color=[COLOUR_A, COLOUR_B], height=1)
    axis.set(xlim=(0, 1), ylim=(-0.5, 0.5))
    axis.axis("off")
    axis.text(lam / 2, 0, f"{lam:g} · loss({labels[0]})", color="white", ha="center", va="center", fontsize=12)
    words = "the rest of the network, and a loss\nwith both labels"
    _text(figure, left + width / 2, middle + 0.55, words, fontsize=11.5)
    share_of_b = f"+ {1 - lam:.1g} · loss({labels[1]})"
    _text(figure, left + width, middle - 0.42, share_of_b, color=COLOUR_B, ha="right")


if __name__ == "__main__":
    print(draw(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("method.png")))
