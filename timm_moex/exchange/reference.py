"""Moment Exchange as the paper defines it, in plain PyTorch.

Every other backend is tested against this file. Source: Li et al., "On Feature Normalization and Data Augmentation",
CVPR 2021, section 3; PONO: Li et al., "Positional Normalization", NeurIPS 2019, section 3.
"""

from torch import Tensor

from .arguments import Formula


def moment_exchange_ref(x: Tensor, swap_index: Tensor, own_share: Tensor | None, formula: Formula) -> Tensor:
    """Replace each sample's moments with its donor's.

    Args:
        x: Features, (B, ...), floating point. Half precision is computed in float32.
        swap_index: Donor of each sample, (B,), int64.
        own_share: Share of a sample's own moments in its new ones, (B,), in [0, 1]; None for 0.
        formula: Axes and settings.

    Returns:
        Features of the shape and dtype of `x`.
    """
    dims, eps, positive_only, moments, detach = formula
    features = x if x.dtype.itemsize >= 4 else x.float()
    if positive_only:
        positive = features > 0
        count = positive.sum(dims, keepdim=True).clamp(min=1)
        mean = features.relu().sum(dims, keepdim=True) / count
        # Two passes: sum(relu(x)^2)/count - mean^2 would cancel, and could become negative, if mean >> std.
        var = ((features - mean).square() * positive).sum(dims, keepdim=True) / count
    else:
        mean = features.mean(dims, keepdim=True)
        var = features.var(dims, keepdim=True, correction=1)
    std = (var + eps).sqrt()
    if detach == "both":
        mean, std = mean.detach(), std.detach()
    new_mean = mean if moments == "std" else _mixed(mean, swap_index, own_share, detach)
    new_std = std if moments == "mean" else _mixed(std, swap_index, own_share, detach)
    return ((features - mean) / std * new_std + new_mean).to(x.dtype)


def _mixed(moment: Tensor, swap_index: Tensor, own_share: Tensor | None, detach: str) -> Tensor:
    """Return the donor's moment, or its mixture with the sample's own."""
    donors = (moment.detach() if detach == "donor" else moment)[swap_index]
    if own_share is None:
        return donors
    share = own_share.to(moment.dtype).view(-1, *[1] * (moment.ndim - 1))
    return share * moment + (1 - share) * donors
