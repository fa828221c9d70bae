"""Memory layout of a dense tensor relative to the axes of its moments."""

import math
import re
from typing import NamedTuple

from torch import Tensor

__all__ = ["Layout", "dense_layout"]


class Layout(NamedTuple):
    """A dense tensor as rows of (reduced, inner) elements, with moments over `reduced`."""

    order: tuple[int, ...]  # axes by decreasing stride
    shape: tuple[int, ...]  # shape of the moments in that order; 1 for a reduced axis
    rows: int
    reduced: int
    inner: int


def dense_layout(x: Tensor, dims: tuple[int, ...]) -> Layout | None:
    """View `x` as rows of (reduced, inner) elements; None if it is not dense or the reduced axes are not adjacent."""
    strides = x.stride()
    order = (0, *sorted(range(1, x.ndim), key=lambda d: -strides[d]))
    expected = 1
    for d in reversed(order):
        if x.shape[d] > 1 and strides[d] != expected:
            return None
        expected *= x.shape[d]
    long = [d for d in order[1:] if x.shape[d] != 1]
    match = re.fullmatch(r"(k*)(r*)(k*)", "".join("r" if d in dims else "k" for d in long))
    if match is None:
        return None
    sizes = [x.shape[d] for d in long]
    return Layout(
        order,
        tuple(1 if d in dims else x.shape[d] for d in order),
        x.shape[0] * math.prod(sizes[: match.end(1)]),
        math.prod(sizes[match.start(2) : match.end(2)]),
        math.prod(sizes[match.start(3) :]),
    )
