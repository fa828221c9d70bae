"""Effect of an exchange on two images: features at the site before and after, their moments, and predictions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .find import find_moex
from .sites import Site

__all__ = ["ExchangedPair", "as_maps", "exchange_pair"]

_SHUFFLED_TOKENS = ("Hiera",)  # their tokens are ordered by mask unit, not row by row


@dataclass(frozen=True)
class ExchangedPair:
    """Features and predictions for two images A and B before and after they exchange moments."""

    site: Site
    norm: str  # of the exchanged moments
    before: Tensor  # features of A and B at the site, (2, C, h, w)
    after: Tensor
    probabilities_before: Tensor  # of the classes, (2, classes)
    probabilities_after: Tensor

    def position_moments(self) -> tuple[Tensor, Tensor]:
        """Return PONO's moments before the exchange: mean and standard deviation over channels, each (2, h, w)."""
        return self.before.mean(1), self.before.std(1)

    def channel_moments(self) -> tuple[Tensor, Tensor]:
        """Return IN's moments before the exchange: mean and standard deviation over positions, each (2, C)."""
        return self.before.mean((2, 3)), self.before.flatten(2).std(2)


@torch.inference_mode()
def exchange_pair(model: nn.Module, images: Tensor) -> ExchangedPair:
    """Run two images through a model, once unchanged and once with each other's moments.

    Args:
        model: A model with MoEx at one site that accepts `swap_index`, such as a twin; left in eval mode.
        images: (2, channels, H, W), normalised as the model needs them.

    Raises:
        ValueError: The model does not have MoEx at exactly one site, its features have no height and width, or its
            output is not one row of logits per image.

    Example:
        >>> import timm
        >>> pair = exchange_pair(timm.create_model("moex_resnet18"), torch.randn(2, 3, 64, 64))
        >>> pair.site.name, pair.before.shape, pair.position_moments()[0].shape
        ('stem', torch.Size([2, 64, 16, 16]), torch.Size([2, 16, 16]))
    """
    moex = find_moex(model)
    if moex is None or len(moex.sites) != 1:
        raise ValueError(f"{type(model).__name__} must have MoEx at exactly one site to show an exchange")
    if type(model).__name__ in _SHUFFLED_TOKENS:
        raise ValueError(f"the tokens of {type(model).__name__} are not ordered row by row, so they cannot be drawn")
    if images.ndim != 4 or len(images) != 2:
        raise ValueError(f"images {tuple(images.shape)}: expected two images, (2, channels, H, W)")
    exchange, seen = moex.sites[0], []
    model.eval()
    plain = _logits(model(images))
    handle = exchange.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    try:
        exchanged = _logits(model(images, swap_index=torch.tensor([1, 0], device=images.device)))
    finally:
        handle.remove()
    before, after = (as_maps(x, exchange.site, images.shape[-2:]) for x in seen[0])  # of a tuple, the first tensor
    return ExchangedPair(exchange.site, exchange.norm, before, after, plain.softmax(1), exchanged.softmax(1))


def _logits(output: Any) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[1] < 2:
        found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ValueError(f"the model's output is {found}, expected a classifier's logits (B, classes)")
    return output.float().cpu()


def as_maps(x: Tensor, site: Site, image_size: Sequence[int]) -> Tensor:
    """Lay a site's features, without prefix tokens, out as (B, C, h, w).

    Tokens are laid out on a grid with the proportions of `image_size`, the height and width of the images.

    Example:
        >>> site = Site("stem", "blocks.0", "input", "NLC")
        >>> as_maps(torch.zeros(2, 8, 3), site, (64, 128)).shape
        torch.Size([2, 3, 2, 4])
    """
    x = x.float().movedim(site.channel_dim, 1).cpu()
    if x.ndim == 3:
        height = round(math.sqrt(x.shape[2] * image_size[0] / image_size[1]))
        if height and x.shape[2] % height == 0 and x.shape[2] * image_size[0] == height**2 * image_size[1]:
            x = x.unflatten(2, (height, -1))
    if x.ndim != 4:
        raise ValueError(
            f"site {site.name!r}: features with shape {tuple(x.shape)}, (B, C, ...), have no height and width to draw; "
            "choose another --layer"
        )
    return x
