"""`moment_exchange`: check the arguments, lay out the axes, call a backend."""

import math

from torch import Tensor

from .arguments import Formula, check_settings, check_tensors, parse_norm
from .backend import default_backend, find_backend

__all__ = ["moment_exchange", "moment_view"]


def _moment_dims(x: Tensor, norm: str, channel_dim: int) -> tuple[Tensor, tuple[int, ...]]:
    """Return a view of `x` and the axes over which it is reduced; groups split the channel axis in two."""
    kind, number, is_group_size = parse_norm(norm)
    spatial = tuple(d for d in range(1, x.ndim) if d != channel_dim)
    if kind == "pono":
        return x, (channel_dim,)
    if kind == "in":
        return x, spatial
    if kind == "ln":
        return x, tuple(range(1, x.ndim))
    if kind == "freq":
        if x.ndim != 4:
            raise ValueError(f"norm='freq' requires x of shape (batch, channel, frequency, time), got {tuple(x.shape)}")
        return x, tuple(sorted((channel_dim, spatial[1])))
    if (channels := x.shape[channel_dim]) % number:
        groups = f"groups of {number} channels" if is_group_size else f"{number} groups"
        raise ValueError(f"norm={norm!r}: {channels} channels cannot be divided into {groups}")
    other = channels // number
    view = x.unflatten(channel_dim, (other, number) if is_group_size else (number, other))
    if kind == "gpono":
        return view, (channel_dim + 1,)
    return view, tuple(d for d in range(1, view.ndim) if d != channel_dim)


def moment_view(x: Tensor, norm: str, positive_only: bool, channel_dim: int) -> tuple[Tensor, tuple[int, ...]]:
    """Return `x` viewed so that the moments are plain reductions, and the axes they are taken over."""
    view, dims = _moment_dims(x, norm, channel_dim % x.ndim)
    count = math.prod([view.shape[dim] for dim in dims])
    if count < 2 and not positive_only:
        raise ValueError(
            f"norm={norm!r} computes moments over {count} element(s) of x with shape {tuple(x.shape)}, but a "
            "single element has no variance; choose another norm or another site"
        )
    return view, dims


def moment_exchange(
    x: Tensor,
    swap_index: Tensor,
    *,
    norm: str = "pono",
    eps: float = 1e-5,
    positive_only: bool = False,
    moments: str = "both",
    own_share: Tensor | None = None,
    detach: str = "none",
    channel_dim: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Give each sample of a batch the feature moments of another sample.

    Sample i is normalised with its own mean and standard deviation, then gets the mean and standard deviation of sample
    `swap_index[i]`. Statistics are computed in float32 (float64 for float64 input), and the gradient flows through the
    moments of both samples. With the default settings the result equals

        mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True)
        std = (var + eps).sqrt()
        y = (x - mean) / std * std[swap_index] + mean[swap_index]

    With an `own_share` l, the new mean is `l * mean + (1 - l) * mean[swap_index]`; the new std is mixed the same way.

    Source: Li et al., CVPR 2021 (arXiv 2002.11102), section 3; `own_share` and `detach`: MixStyle, Zhou et al., ICLR
    2021 (arXiv 2104.02008), and permuted AdaIN, Nuriel et al., CVPR 2021 (arXiv 2010.05785).

    Args:
        x: Features, (B, C, *spatial) or, with `channel_dim=-1`, (B, *spatial, C); 2 to 5 dimensions, floating point.
        swap_index: Donor of each sample, (B,), int64, on the device of `x`; usually a permutation.
        norm: Axes of the moments. `pono`: over C, one pair of moments per position. `in`: over the spatial axes, one
            pair per channel. `ln`: over C and space. `gn4`: over space and each of 4 groups of channels; `gn-d4`: the
            same with groups of 4 channels. `gpono4`, `gpono-d4`: over the channels of each group. `freq`: over C and
            the last spatial axis, for spectrograms (B, C, frequency, time).
        eps: Added to the variance before the square root.
        positive_only: Take the moments of only the positive entries, with the biased variance; mean and variance are 0
            if no entry is positive. With a single positive entry the variance is also 0, so the other entries are
            divided by sqrt(eps). That is rare but can disturb a BatchNorm that follows; a larger `eps` helps.
        moments: Moments that come from the donor: "both", "mean" or "std".
        own_share: Share of a sample's own moments in its new ones, (B,), in [0, 1]; None means 0, a full exchange.
        detach: Moments that are constants in the backward pass: "none", "donor" (only the donor's) or "both".
        channel_dim: Axis of the channels, 1 or -1 (the last).
        backend: "reference" runs the formula under autograd. "closed_form" has a closed-form backward that keeps only
            the features and their moments. "triton" does the same with Triton kernels on CUDA. None chooses "triton"
            in eager mode on an NVIDIA GPU if it supports the arguments, otherwise "closed_form" (see
            `default_backend`). A named backend is never replaced by another.

    Returns:
        Features with the shape, dtype and memory format of `x`.

    Raises:
        TypeError: `x` or `own_share` is not floating point, or `swap_index` is not int64.
        ValueError: `norm`, `moments`, `detach` or `backend` is unknown; `own_share` is out of range; the channels do
            not divide into the groups; the moments cover a single element, which has no unbiased variance; or shapes
            or devices do not fit.
        ImportError: Triton is not installed, and `backend="triton"`.
        IndexError: `swap_index` is out of range. If its values cannot be checked beforehand (on a GPU, in a compiled
            graph, under vmap), PyTorch's indexing raises an error and Triton gives NaN.

    Example:
        Samples 0 and 1 exchange the mean and standard deviation of each position:

        >>> import torch
        >>> x = torch.tensor([[[1.0], [3.0]], [[10.0], [30.0]]])  # (2, 2, 1): B, C, N
        >>> moment_exchange(x, torch.tensor([1, 0]), eps=0.0).flatten(1)
        tensor([[10., 30.],
                [ 1.,  3.]])
    """
    check_settings(norm=norm, eps=eps, positive_only=positive_only, moments=moments, detach=detach)
    swap_index, own_share = check_tensors(x, swap_index, own_share, channel_dim)
    exchange = find_backend(default_backend(x, positive_only) if backend is None else backend)
    view, dims = moment_view(x, norm, positive_only, channel_dim)
    formula = Formula(dims, eps, positive_only, moments, detach)
    return exchange(view, swap_index, own_share, formula).reshape(x.shape)
