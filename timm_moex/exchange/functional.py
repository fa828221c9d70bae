"""`moment_exchange`: check the arguments, lay out the axes, call a backend."""

import math
import re
from collections.abc import Callable

import torch
from torch import Tensor

from ..utils.messages import nearest
from .closed_form import moment_exchange_closed_form
from .reference import moment_exchange_ref

__all__ = ["BACKENDS", "MOMENTS", "NORMS", "check_settings", "check_swap_index", "moment_exchange", "parse_norm"]

NORMS = ("pono", "in", "ln", "gn{G}", "gn-d{D}", "gpono{G}", "gpono-d{D}")
MOMENTS = ("both", "mean", "std")
_OUT_OF_EVERY_RANGE = 2**62

_GROUPED = re.compile(r"(gn|gpono)(-d)?([1-9][0-9]*)")


def _triton(*args) -> Tensor:
    from ._triton import moment_exchange_triton  # imported when asked for: triton is not everywhere

    return moment_exchange_triton(*args)


# `backend=None` is "closed_form" on every device. Triton takes over on CUDA once rows of benchmarks/results/op.csv and
# compile.csv that were measured on a GPU show that it is faster; there are none yet.
BACKENDS = {"reference": moment_exchange_ref, "closed_form": moment_exchange_closed_form, "triton": _triton}


def parse_norm(norm: str) -> tuple[str, int, bool]:
    """Parse the name of a norm.

    Args:
        norm: `pono`, `in`, `ln`, or a grouped one: `gn4` and `gpono4` have 4 groups of channels, `gn-d4` and
            `gpono-d4` have groups of 4 channels.

    Returns:
        (kind, number, number_is_group_size) with kind one of `pono`, `in`, `ln`, `gn`, `gpono`.

    Raises:
        ValueError: `norm` is `bn` or unknown; the message names the nearest right spelling.
    """
    if norm in ("pono", "in", "ln"):
        return norm, 1, False
    if isinstance(norm, str) and (match := _GROUPED.fullmatch(norm)):
        return match[1], int(match[3]), match[2] is not None
    if norm in ("bn", "batch_norm", "batchnorm"):
        raise ValueError(
            f"norm={norm!r}: batch normalisation shares its moments among all samples, so there is nothing "
            "to exchange. Use 'pono', 'in', 'ln' or a grouped norm."
        )
    spellings = ["pono", "in", "ln", "gn4", "gn-d4", "gpono4", "gpono-d4"]
    hint = nearest(str(norm).lower(), spellings, 0.3)
    raise ValueError(f"norm={norm!r} is unknown; expected one of {', '.join(NORMS)}{hint}")


def check_settings(*, norm: str, eps: float, positive_only: bool, moments: str) -> None:
    """See that the settings of an exchange are what `moment_exchange` takes.

    Raises:
        ValueError: One of them is not; the message names it and its value.
    """
    parse_norm(norm)
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 <= eps < math.inf:
        raise ValueError(f"eps={eps!r}: expected a finite number >= 0")
    if not isinstance(positive_only, bool):
        raise ValueError(f"positive_only={positive_only!r}: expected True or False")
    if moments not in MOMENTS:
        raise ValueError(f"moments={moments!r}: expected one of {', '.join(MOMENTS)}{nearest(moments, MOMENTS)}")


def _check_backend(backend: str) -> Callable[..., Tensor]:
    if backend not in BACKENDS:
        hint = nearest(str(backend).lower(), BACKENDS, 0.3)
        raise ValueError(f"backend={backend!r}: expected None or one of {', '.join(BACKENDS)}{hint}")
    return BACKENDS[backend]


def check_swap_index(swap_index: Tensor, batch_size: int, of: str) -> Tensor:
    """Check that a `swap_index` names one donor for each sample, as far as that is possible without waiting for a GPU.

    Where the values cannot be read (on a GPU, in a compiled graph, under vmap), indexing would wrap a negative one
    around, and vmap would read another batch. There they are made so large that indexing itself refuses them.

    Args:
        swap_index: Donor of each sample, (B,), int64.
        batch_size: B.
        of: What has the samples, for the message.

    Returns:
        `swap_index`, or one whose values outside of [0, B) are out of every range.

    Raises:
        TypeError: It is no tensor of dtype int64.
        ValueError: It has another shape.
        IndexError: Values outside of [0, B), where they can be read.
    """
    if not isinstance(swap_index, Tensor) or swap_index.dtype != torch.int64:
        found = swap_index.dtype if isinstance(swap_index, Tensor) else type(swap_index).__name__
        raise TypeError(f"swap_index must be a tensor of dtype torch.int64, got {found}")
    if swap_index.shape != (batch_size,):
        raise ValueError(
            f"swap_index must have shape ({batch_size},), one donor per sample of {of}, got {tuple(swap_index.shape)}"
        )
    if not batch_size:
        return swap_index
    if torch.compiler.is_compiling() or swap_index.device.type != "cpu" or not _is_plain(swap_index):
        return swap_index.where((swap_index >= 0) & (swap_index < batch_size), _OUT_OF_EVERY_RANGE)
    low, high = torch.aminmax(swap_index)
    if low < 0 or high >= batch_size:
        raise IndexError(f"swap_index holds {int(low)}..{int(high)}, expected values in [0, {batch_size})")
    return swap_index


def _is_plain(x: Tensor) -> bool:
    return type(x) in (Tensor, torch.nn.Parameter) and not torch._C._functorch.is_functorch_wrapped_tensor(x)


def _group_count(channels: int, norm: str, number: int, is_group_size: bool) -> int:
    if channels % number:
        what = f"groups of {number} channels" if is_group_size else f"{number} groups"
        raise ValueError(f"norm={norm!r}: {channels} channels do not divide into {what}")
    return channels // number if is_group_size else number


def _moment_dims(x: Tensor, norm: str, channel_dim: int) -> tuple[Tensor, tuple[int, ...]]:
    """View `x` so that the moments are plain reductions: (view, axes); groups split the channel axis in two."""
    kind, number, is_group_size = parse_norm(norm)
    spatial = tuple(d for d in range(1, x.ndim) if d != channel_dim)
    if kind == "pono":
        return x, (channel_dim,)
    if kind == "in":
        return x, spatial
    if kind == "ln":
        return x, tuple(range(1, x.ndim))
    groups = _group_count(x.shape[channel_dim], norm, number, is_group_size)
    view = x.unflatten(channel_dim, (groups, x.shape[channel_dim] // groups))
    within = channel_dim + 1
    if kind == "gpono":
        return view, (within,)
    return view, tuple(d for d in range(1, view.ndim) if d != channel_dim)


def moment_exchange(
    x: Tensor,
    swap_index: Tensor,
    *,
    norm: str = "pono",
    eps: float = 1e-5,
    positive_only: bool = False,
    moments: str = "both",
    channel_dim: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Give each sample of a batch the feature moments of another one.

    Sample i is normalised by its own mean and standard deviation and takes on those of sample `swap_index[i]`.
    Statistics are computed in float32 (float64 for float64 input); the gradient flows through both samples' moments.
    With the default settings the result equals

        mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True)
        std = (var + eps).sqrt()
        y = (x - mean) / std * std[swap_index] + mean[swap_index]

    Source: Li et al., CVPR 2021 (arXiv 2002.11102), section 3.

    Args:
        x: Features, (B, C, *spatial) or, with `channel_dim=-1`, (B, *spatial, C); 2 to 5 dimensions, floating point.
        swap_index: Donor of each sample, (B,), int64, on the device of `x`; usually a permutation.
        norm: Axes of the moments. `pono` over C, one pair of moments per position; `in` over the spatial axes, one pair
            per channel; `ln` over C and space; `gn4` over 4 channel groups and space, `gn-d4` likewise with groups of
            4 channels; `gpono4`, `gpono-d4` over the channels of each group.
        eps: Added to the variance before the square root.
        positive_only: Take the moments of the positive entries alone (biased variance); no positive entry counts as
            mean 0, variance 0. A single positive entry has variance 0 too, so the others of its group are divided by
            sqrt(eps): rare, but large enough to upset a BatchNorm that follows. A larger `eps` bounds it.
        moments: What comes from the donor: "both", "mean" or "std".
        channel_dim: Axis of the channels, 1 or -1 (the last).
        backend: "reference" is the formula under autograd; "closed_form" has a closed-form backward, which keeps only
            the features and their moments; "triton" does the same in Triton kernels, on CUDA. None takes
            "closed_form". A named backend is used or refused, never replaced.

    Returns:
        Features of the shape, dtype and memory format of `x`.

    Raises:
        TypeError: `x` is not floating point, or `swap_index` is not int64.
        ValueError: Unknown `norm`, `moments` or `backend`; channels that do not divide into the groups; moments over
            a single element, whose unbiased variance does not exist; shapes or devices that do not fit.
        ImportError: "triton" is asked for and not installed.
        IndexError: `swap_index` out of range. Where its values cannot be checked beforehand (on a GPU, in a compiled
            graph, under vmap), indexing fails with an error of its own, and Triton gives NaN.

    Example:
        Each position of sample 0 takes on the mean and the standard deviation of sample 1, and the other way round:

        >>> x = torch.tensor([[[1.0], [3.0]], [[10.0], [30.0]]])  # (2, 2, 1): B, C, N
        >>> moment_exchange(x, torch.tensor([1, 0]), eps=0.0).flatten(1)
        tensor([[10., 30.],
                [ 1.,  3.]])
    """
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating point tensor, got {x.dtype}")
    if not 2 <= x.ndim <= 5:
        raise ValueError(f"x must have 2 to 5 dimensions, got shape {tuple(x.shape)}")
    if channel_dim not in (1, -1, x.ndim - 1):
        raise ValueError(f"channel_dim={channel_dim}: expected 1 or -1 (the last axis) for x of {x.ndim} dimensions")
    check_settings(norm=norm, eps=eps, positive_only=positive_only, moments=moments)
    exchange = BACKENDS["closed_form"] if backend is None else _check_backend(backend)
    swap_index = check_swap_index(swap_index, x.shape[0], "x")
    if swap_index.device != x.device:
        raise ValueError(f"swap_index is on {swap_index.device}, x on {x.device}; move it: swap_index.to(x.device)")
    view, dims = _moment_dims(x, norm, channel_dim % x.ndim)
    count = 1
    for dim in dims:
        count *= view.shape[dim]
    if count < 2 and not positive_only:
        raise ValueError(
            f"norm={norm!r} takes its moments over {count} element(s) of x with shape {tuple(x.shape)}; "
            "the variance of a single element does not exist. Choose another norm or another site."
        )
    return exchange(view, swap_index, dims, eps, positive_only, moments).reshape(x.shape)
