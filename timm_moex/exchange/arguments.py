"""Check the arguments of an exchange; every error names the argument and its value."""

import math
import re
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..utils.checks import check_finite
from ..utils.messages import did_you_mean

__all__ = [
    "DETACH",
    "Formula",
    "MOMENTS",
    "NORMS",
    "TRITON_DTYPES",
    "check_settings",
    "check_swap_index",
    "check_tensors",
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
    """Axes and settings with which a backend computes an exchange, see `moment_exchange`."""

    dims: tuple[int, ...]  # axes of the features over which the moments are taken; never 0
    eps: float = 1e-5
    positive_only: bool = False
    moments: str = "both"
    detach: str = "none"


def parse_norm(norm: str) -> tuple[str, int, bool]:
    """Parse the name of a norm.

    Returns:
        (kind, number, number_is_group_size) with kind one of `pono`, `in`, `ln`, `freq`, `gn`, `gpono`.
    """
    if norm in ("pono", "in", "ln", "freq"):
        return norm, 1, False
    if isinstance(norm, str) and (match := _GROUPED.fullmatch(norm)):
        return match[1], int(match[3]), match[2] is not None
    if norm in ("bn", "batch_norm", "batchnorm"):
        raise ValueError(
            f"norm={norm!r}: batch normalisation shares its moments among all samples, so there is nothing "
            "to exchange; use 'pono', 'in', 'ln' or a group norm such as 'gn4'"
        )
    hint = did_you_mean(str(norm).lower(), ["pono", "in", "ln", "freq", "gn4", "gn-d4", "gpono4", "gpono-d4"], 0.3)
    raise ValueError(f"norm={norm!r} is unknown; expected one of {', '.join(NORMS)}{hint}")


def check_settings(*, norm: str, eps: float, positive_only: bool, moments: str, detach: str = "none") -> None:
    """Check the settings of `moment_exchange`."""
    parse_norm(norm)
    check_finite("eps", eps)
    if not isinstance(positive_only, bool):
        raise ValueError(f"positive_only={positive_only!r}: expected True or False")
    for name, value, choices in (("moments", moments, MOMENTS), ("detach", detach, DETACH)):
        if value not in choices:
            raise ValueError(f"{name}={value!r}: expected one of {', '.join(choices)}{did_you_mean(value, choices)}")


def check_tensors(
    x: Tensor, swap_index: Tensor, own_share: Tensor | None, channel_dim: int
) -> tuple[Tensor, Tensor | None]:
    """Check the tensors of an exchange; return the checked `swap_index` and `own_share`."""
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating point tensor, got {x.dtype}")
    if not 2 <= x.ndim <= 5:
        raise ValueError(f"x must have 2 to 5 dimensions, got shape {tuple(x.shape)}")
    if channel_dim not in (1, -1, x.ndim - 1):
        raise ValueError(f"channel_dim={channel_dim}: expected 1 or -1 (the last axis) for x with {x.ndim} dimensions")
    own_share = None if own_share is None else _check_own_share(own_share, x)
    swap_index = check_swap_index(swap_index, x.shape[0], "x")
    if swap_index.device != x.device:
        raise ValueError(f"swap_index is on {swap_index.device}, but x is on {x.device}; use swap_index.to(x.device)")
    return swap_index, own_share


def _check_own_share(own_share: Tensor, x: Tensor) -> Tensor:
    """Check `own_share`. If its values cannot be read, those outside [0, 1] become nan."""
    if not isinstance(own_share, Tensor) or not own_share.is_floating_point():
        raise TypeError(f"own_share must be a floating point tensor, got {_kind(own_share)}")
    if own_share.shape != (x.shape[0],) or own_share.device != x.device:
        raise ValueError(
            f"own_share must have shape ({x.shape[0]},) and be on {x.device}, got {tuple(own_share.shape)} on "
            f"{own_share.device}"
        )
    if own_share.requires_grad:
        raise ValueError("own_share requires grad, but no gradient is computed for it; pass own_share.detach()")
    inside = (own_share >= 0) & (own_share <= 1)
    if not _can_be_read(own_share):
        return own_share.where(inside, math.nan)
    if not inside.all():
        raise ValueError(f"own_share={own_share[~inside][0].item()}: expected values in [0, 1]")
    return own_share


def check_swap_index(swap_index: Tensor, batch_size: int, of: str) -> Tensor:
    """Check that `swap_index` has one donor for each sample of the argument `of`.

    If its values cannot be read, those outside [0, B) are replaced by a number so large that indexing raises an error.
    Otherwise negative values would wrap around, and indexing under vmap would read from another batch.
    """
    if not isinstance(swap_index, Tensor) or swap_index.dtype != torch.int64:
        raise TypeError(f"swap_index must be a tensor of dtype torch.int64, got {_kind(swap_index)}")
    if swap_index.shape != (batch_size,):
        raise ValueError(
            f"swap_index must have shape ({batch_size},), one donor per sample of {of}, got {tuple(swap_index.shape)}"
        )
    if not batch_size:
        return swap_index
    if not _can_be_read(swap_index):
        return swap_index.where((swap_index >= 0) & (swap_index < batch_size), _OUT_OF_EVERY_RANGE)
    low, high = torch.aminmax(swap_index)
    if low < 0 or high >= batch_size:
        raise IndexError(f"swap_index has values {int(low)}..{int(high)}, expected values in [0, {batch_size})")
    return swap_index


def _kind(value: Any) -> Any:
    return value.dtype if isinstance(value, Tensor) else type(value).__name__


def _can_be_read(x: Tensor) -> bool:
    """Return whether values can be read: not in a compiled graph or under vmap, nor on a GPU, which would block."""
    return not torch.compiler.is_compiling() and x.device.type == "cpu" and is_plain(x)


def is_plain(x: Tensor) -> bool:
    """Return whether `x` is an ordinary tensor, without a subclass or a wrapper from a torch.func transform."""
    return type(x) in (Tensor, torch.nn.Parameter) and not torch._C._functorch.is_functorch_wrapped_tensor(x)
