"""Exact distribution matching: a sample takes on its donor's sorted values, not only their moments.

Source: Zhang et al., "Exact Feature Distribution Matching for Arbitrary Style Transfer and Domain Generalization",
CVPR 2022 (arXiv 2203.07740), section 3.
"""

from torch import Tensor

from .arguments import check_tensors

__all__ = ["match_distribution"]


def match_distribution(
    x: Tensor, swap_index: Tensor, *, own_share: Tensor | None = None, channel_dim: int = 1
) -> Tensor:
    """Move the values of each channel towards the values in another sample's channel, rank by rank.

    Let m be the donor's values, reordered per channel to the ranks of x, and l the own share. Then

        y = x + (1 - l) * (m - constant(x))

    With l = 0 every channel gets the donor's values, up to rounding. The gradient reaches x through the first term and
    the donor through m. Exchanging moments (`moment_exchange`) is a first-order approximation.

    Args:
        x: Features, (B, C, *spatial) or, with `channel_dim=-1`, (B, *spatial, C); 2 to 5 dimensions, floating point.
        swap_index: Donor of each sample, (B,), int64, on the device of `x`.
        own_share: l, the share of a sample's own values, (B,), in [0, 1]; None for 0.
        channel_dim: Axis of the channels, 1 or -1 (the last).

    Returns:
        Features of the shape and dtype of `x`.

    Raises:
        TypeError: See `moment_exchange`.
        ValueError: Shapes or devices do not fit, or `own_share` is out of range.
        IndexError: `swap_index` is out of range, see `moment_exchange`.

    Example:
        The values of sample 1 in the order of sample 0:

        >>> import torch
        >>> x = torch.tensor([[[3.0, 1.0, 2.0]], [[10.0, 30.0, 20.0]]])  # (2, 1, 3): B, C, N
        >>> match_distribution(x, torch.tensor([1, 0]))[0]
        tensor([[30., 10., 20.]])
    """
    swap_index, own_share = check_tensors(x, swap_index, own_share, channel_dim)
    channels_first = x.movedim(channel_dim, 1)
    flat = channels_first.flatten(2) if x.ndim > 2 else channels_first[:, :, None]  # (B, C, N)
    values, order = flat.sort(dim=-1, stable=True)
    matched = flat.detach().scatter(-1, order, values[swap_index])  # by the ranks of x: one sort is enough
    change = matched - flat.detach()
    if own_share is not None:
        change = change * (1 - own_share.to(change.dtype))[:, None, None]
    return (flat + change).view(channels_first.shape).movedim(1, channel_dim)
