"""Checks of an exchange's arguments, with errors that name argument and value."""

import math
import re
from typing import NamedTuple

import torch
from torch import Tensor

from ..utils.messages import did_you_mean

__all__ = [
    "DETACH",
    "Formula",
    "MOMENTS",
    "NORMS",
    "TRITON_DTYPES",
    "check_features",
    "check_own_share",
    "check_settings",
    "check_swap_index",
    "is_plain",
    "parse_norm",
]

NORMS = ("pono", "in", "ln", "freq", "gn{G}", "gn-d{D}", "gpono{G}", "gpono-d{D}")
MOMENTS = ("both", "mean", "std")
DETACH = ("none", "donor", "both")
TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # supported by the kernels
_OUT_OF_EVERY_RANGE = 2**62

_GROUPED = re.compile(r"(gn|gpono)(-d)?([1-9][0-9]*)")


class Formula(NamedTuple):
    """Axes and settings with which a backend computes an exchange.

    Attributes:
        dims: Axes of the features over which the moments are taken; never 0.
        eps: Added to the variance before the square root.
        positive_only: Take the moments of only the positive entries.
        moments: Moments that come from the donor: "both", "mean" or "std".
        detach: Moments that count as constants for the gradient: "none", "donor" or "both".
    """

    dims: tuple[int, ...]
    eps: float = 1e-5
    positive_only: bool = False
    moments: str = "both"
    detach: str = "none"


def parse_norm(norm: str) -> tuple[str, int, bool]:
    """Parse the name of a norm.

    Args:
        norm: `pono`, `in`, `ln`, `freq`, or a grouped norm: `gn4` and `gpono4` have 4 groups of channels, `gn-d4` and
            `gpono-d4` have groups of 4 channels.

    Returns:
        (kind, number, number_is_group_size) with kind one of `pono`, `in`, `ln`, `freq`, `gn`, `gpono`.

    Raises:
        ValueError: `norm` is `bn` or unknown; the message names the nearest right spelling.
    """
    if norm in ("pono", "in", "ln", "freq"):
        return norm, 1, False
    if isinstance(norm, str) and (match := _GROUPED.fullmatch(norm)):
        return match[1], int(match[3]), match[2] is not None
    if norm in ("bn", "batch_norm", "batchnorm"):
        raise ValueError(
            f"norm={norm!r}: batch normalisation shares its moments among all samples, so there is nothing "
            "to exchange; use 'pono', 'in', 'ln' or a grouped norm"
        )
    spellings = ["pono", "in", "ln", "freq", "gn4", "gn-d4", "gpono4", "gpono-d4"]
    hint = did_you_mean(str(norm).lower(), spellings, 0.3)
    raise ValueError(f"norm={norm!r} is unknown; expected one of {', '.join(NORMS)}{hint}")


def check_settings(*, norm: str, eps: float, positive_only: bool, moments: str, detach: str = "none") -> None:
    """Check the settings of `moment_exchange`.

    Raises:
        ValueError: A setting is invalid; the message names it and its value.
    """
    parse_norm(norm)
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 <= eps < math.inf:
        raise ValueError(f"eps={eps!r}: expected a finite number >= 0")
    if not isinstance(positive_only, bool):
        raise ValueError(f"positive_only={positive_only!r}: expected True or False")
    if moments not in MOMENTS:
        raise ValueError(f"moments={moments!r}: expected one of {', '.join(MOMENTS)}{did_you_mean(moments, MOMENTS)}")
    if detach not in DETACH:
        raise ValueError(f"detach={detach!r}: expected one of {', '.join(DETACH)}{did_you_mean(detach, DETACH)}")


def check_features(x: Tensor, channel_dim: int) -> None:
    """Check the features and their channel axis.

    Raises:
        TypeError: `x` is not floating point.
        ValueError: `x` has too few or too many dimensions, or `channel_dim` is neither 1 nor the last axis.
    """
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating point tensor, got {x.dtype}")
    if not 2 <= x.ndim <= 5:
        raise ValueError(f"x must have 2 to 5 dimensions, got shape {tuple(x.shape)}")
    if channel_dim not in (1, -1, x.ndim - 1):
        raise ValueError(f"channel_dim={channel_dim}: expected 1 or -1 (the last axis) for x with {x.ndim} dimensions")


def check_own_share(own_share: Tensor | None, x: Tensor) -> Tensor | None:
    """Check the shares of the samples' own moments, as far as possible without waiting for a GPU.

    Args:
        own_share: (B,), floating point, in [0, 1]; None passes.
        x: The features, (B, ...).

    Returns:
        `own_share`. If its values cannot be read (see `check_swap_index`), those outside of [0, 1] become nan.

    Raises:
        TypeError: `own_share` is not a floating point tensor.
        ValueError: `own_share` has the wrong shape or device, requires a gradient, or has values outside of [0, 1].
    """
    if own_share is None:
        return None
    if not isinstance(own_share, Tensor) or not own_share.is_floating_point():
        found = own_share.dtype if isinstance(own_share, Tensor) else type(own_share).__name__
        raise TypeError(f"own_share must be a floating point tensor, got {found}")
    if own_share.shape != (x.shape[0],) or own_share.device != x.device:
        raise ValueError(
            f"own_share must have shape ({x.shape[0]},) and be on {x.device}, got {tuple(own_share.shape)} on "
            f"{own_share.device}"
        )
    if own_share.requires_grad:
        raise ValueError("own_share requires a gradient, which is not computed; pass own_share.detach()")
    inside = (own_share >= 0) & (own_share <= 1)
    if torch.compiler.is_compiling() or own_share.device.type != "cpu" or not is_plain(own_share):
        return own_share.where(inside, math.nan)
    if not inside.all():
        raise ValueError(f"own_share={own_share[~inside][0].item()}: expected values in [0, 1]")
    return own_share


def check_swap_index(swap_index: Tensor, batch_size: int, of: str) -> Tensor:
    """Check that `swap_index` names one donor for each sample, as far as possible without waiting for a GPU.

    The values cannot be read on a GPU, in a compiled graph or under vmap. Indexing would then wrap negative values
    around, and vmap would read from another batch. Values outside of [0, B) are therefore replaced by a number so large
    that indexing raises.

    Args:
        swap_index: Donor of each sample, (B,), int64.
        batch_size: B.
        of: Name of the argument that has the samples, for the message.

    Returns:
        `swap_index`. If its values cannot be read, those outside of [0, B) are replaced.

    Raises:
        TypeError: `swap_index` is not a tensor of dtype int64.
        ValueError: `swap_index` has the wrong shape.
        IndexError: A value that can be read is outside of [0, B).
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
    if torch.compiler.is_compiling() or swap_index.device.type != "cpu" or not is_plain(swap_index):
        return swap_index.where((swap_index >= 0) & (swap_index < batch_size), _OUT_OF_EVERY_RANGE)
    low, high = torch.aminmax(swap_index)
    if low < 0 or high >= batch_size:
        raise IndexError(f"swap_index has values {int(low)}..{int(high)}, expected values in [0, {batch_size})")
    return swap_index


def is_plain(x: Tensor) -> bool:
    """Return whether `x` is an ordinary tensor, without a subclass or a wrapper from a torch.func transform."""
    return type(x) in (Tensor, torch.nn.Parameter) and not torch._C._functorch.is_functorch_wrapped_tensor(x)
