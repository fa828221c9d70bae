"""Picture of an exchange: two images, their moments at the site, and A's features with B's moments."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..insertion.pair import ExchangedPair
from .figure import new_figure, open_frame, save_figure, show_image, show_map

__all__ = ["COLOUR_A", "COLOUR_B", "plot_exchange"]

COLOUR_A, COLOUR_B = "#00798c", "#d1495b"
_BEFORE, _AFTER = "#9aa5ab", "#edae49"
_NAMES = {"pono": "PONO", "in": "IN", "ln": "LN"}


def plot_exchange(
    pair: ExchangedPair, images: Tensor, names: Sequence[str], path: str | Path, *, title: str = "", channels: int = 6
) -> Path:
    """Draw an exchange as one figure.

    Args:
        pair: From `exchange_pair`.
        images: A and B without normalisation, (2, 1 or 3, H, W), values in [0, 1].
        names: Class names.
        path: The picture; its suffix chooses the format.
        title: Title of the picture, in front of the site and the norm.
        channels: Number of channels to draw; the ones that change most are chosen.
    """
    figure = new_figure(14, 9.6)
    count, height, width = pair.before.shape[1:]
    norm = _NAMES.get(pair.norm, pair.norm)
    where = f"exchange of {norm} moments at the site '{pair.site.name}' ({count} channels, {height} x {width})"
    figure.suptitle(f"{title}: {where}" if title else where[0].upper() + where[1:], fontsize=14)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.12, 1), hspace=0.04)
    maps, curves = top.subfigures(1, 2, width_ratios=(1.75, 1))
    _draw_images_and_maps(maps, pair, images, names)
    _draw_channel_moments(curves, pair)
    features, bars = bottom.subfigures(1, 2, width_ratios=(1.75, 1))
    _draw_features(features, pair, min(channels, count))
    _draw_predictions(bars, pair, names)
    return save_figure(figure, path, made_by="timm-moex show")


def _heading(pair: ExchangedPair, norm: str, words: str) -> str:
    return f"{words}, exchanged here" if pair.norm.startswith(norm) or pair.norm.startswith(f"g{norm}") else words


def _draw_images_and_maps(figure: Any, pair: ExchangedPair, images: Tensor, names: Sequence[str]) -> None:
    figure.suptitle(_heading(pair, "pono", "Structure: moments at each position (PONO)"), fontsize=12)
    axes = figure.subplots(2, 3, gridspec_kw={"wspace": 0.02})
    for row, (word, colour) in enumerate((("A", COLOUR_A), ("B", COLOUR_B))):
        show_image(axes[row, 0], images[row])
        axes[row, 0].spines[:].set(visible=True, color=colour, linewidth=3)
        guess = int(pair.probabilities_before[row].argmax())
        axes[row, 0].set_title(f"{word}: predicted {_short(names[guess])}", fontsize=11, color=colour)
    for column, (moment, word) in enumerate(zip(pair.position_moments(), ("mean", "standard deviation")), start=1):
        low, high = float(moment.min()), float(moment.max())
        for row, (letter, colour) in enumerate((("A", COLOUR_A), ("B", COLOUR_B))):
            drawn = show_map(axes[row, column], moment[row], low, high)
            axes[row, column].set_title(f"{letter}: {word}", fontsize=11, color=colour)
        figure.colorbar(drawn, ax=axes[:, column], fraction=0.05, shrink=0.7, pad=0.03)


def _draw_channel_moments(figure: Any, pair: ExchangedPair) -> None:
    figure.suptitle(_heading(pair, "in", "Style: moments of each channel (IN)"), fontsize=12)
    axes = figure.subplots(2, 1, sharex=True)
    for axis, moment, word in zip(axes, pair.channel_moments(), ("mean", "standard deviation")):
        order = moment.mean(0).argsort()
        few = dict(marker="o", markersize=5) if moment.shape[1] <= 64 else {}
        x = range(1, moment.shape[1] + 1)
        for row, (letter, colour) in enumerate((("A", COLOUR_A), ("B", COLOUR_B))):
            axis.plot(x, moment[row, order].tolist(), color=colour, linewidth=1.2, label=letter, **few)
        axis.set_ylabel(word, fontsize=11)
        open_frame(axis)
    axes[0].legend(loc="upper left", frameon=False, fontsize=11)
    axes[1].set_xlabel("channels, sorted by the value on the left")


def _draw_features(figure: Any, pair: ExchangedPair, channels: int) -> None:
    figure.suptitle("Features, in the channels of A that change most", fontsize=12)
    before, after, donor = pair.before[0], pair.after[0], pair.before[1]
    change = (after - before).flatten(1).norm(dim=1)
    chosen = change.topk(channels).indices.sort().values.tolist()
    axes = figure.subplots(3, channels, squeeze=False)
    rows = ((before, "A, before", COLOUR_A), (after, "A, with B's\nmoments", "black"), (donor, "B, before", COLOUR_B))
    for column, channel in enumerate(chosen):
        shown = torch.cat([values[channel].flatten() for values, _, _ in rows])
        low, high = shown.quantile(torch.tensor([0.01, 0.99])).tolist()
        for row, (values, word, colour) in enumerate(rows):
            axis = axes[row, column]
            show_map(axis, values[channel], low, high, "cividis")
            if not column:
                axis.set_ylabel(word, fontsize=11, color=colour, rotation=0, ha="right", va="center")
        axes[0, column].set_title(f"channel {channel}", fontsize=10)


def _draw_predictions(figure: Any, pair: ExchangedPair, names: Sequence[str]) -> None:
    figure.suptitle("Prediction for A", fontsize=12)
    before, after = 100 * pair.probabilities_before[0], 100 * pair.probabilities_after[0]
    chosen = torch.maximum(before, after).topk(min(5, len(before))).indices.tolist()
    axis = figure.subplots()
    for shift, values, colour, word in ((-0.2, before, _BEFORE, "before"), (0.2, after, _AFTER, "with B's moments")):
        y = [place + shift for place in range(len(chosen))]
        bars = axis.barh(y, values[chosen].tolist(), height=0.38, color=colour, label=word)
        axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
    axis.set(xlim=(0, 112), xlabel="probability, %", xticks=range(0, 101, 20))
    axis.set_yticks(range(len(chosen)), [_short(names[i]) for i in chosen])
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower right", frameon=False)


def _short(name: str) -> str:
    return name if len(name) <= 22 else name[:21].rstrip() + "…"
