"""Random draws for a batch: whether to exchange, with which donors, and what share of its own moments a sample keeps.

Each draw takes one number from torch's seeded CPU generator and uses it, combined with the rank, to seed a separate
generator. The state of torch's generator therefore does not depend on the outcome of the draw, and processes started
with the same seed still draw differently.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..utils.checks import check_fraction, check_whole

__all__ = ["draw_own_share", "draw_swap_index", "take_generator"]

_RANK_STEP = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd: ranks never collide


def take_generator(rank: int | None = None) -> torch.Generator:
    """Seed a generator with one number from torch's CPU generator and the rank (default: this process's rank)."""
    seed = int(torch.randint(2**62, (), device="cpu"))
    if rank is None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if distributed else 0
    return torch.Generator().manual_seed((seed + rank * _RANK_STEP) % 2**63)


def draw_swap_index(
    batch_size: int,
    prob: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    groups: Tensor | None = None,
) -> Tensor | None:
    """Decide at random whether a batch is exchanged, and if it is, draw a permutation of its samples.

    Args:
        batch_size: Number of samples B.
        prob: Probability of an exchange.
        generator: Source of randomness on the CPU; default: `take_generator()`.
        groups: Group of each sample (drawing style, device, hospital), (B,), integers. Each sample then gets a donor
            from a different group, as in MixStyle's "crossdomain". If the whole batch is one group, donors come from
            that group. If None, donors come from anywhere in the batch.

    Returns:
        Donors (B,), int64, on the CPU: a permutation of range(B). If one group has more than half of the batch,
        some samples of the other groups are used more than once. None for no exchange.

    Raises:
        ValueError: `prob` is not in [0, 1], `batch_size` is not an integer >= 1, or `groups` has the wrong length.
        TypeError: `generator` is not a `torch.Generator`, or `groups` is not an integer tensor.

    Example:
        >>> draw_swap_index(4, generator=torch.Generator().manual_seed(0)).sort().values
        tensor([0, 1, 2, 3])
        >>> draw_swap_index(4, prob=0.0) is None
        True
        >>> donors = draw_swap_index(4, groups=torch.tensor([0, 0, 1, 1]))
        >>> (donors[:2] >= 2).all(), (donors[2:] < 2).all()
        (tensor(True), tensor(True))
    """
    check_fraction("prob", prob)
    check_whole("batch_size", batch_size, least=1)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if groups is not None:
        _check_groups(groups, batch_size)
    if generator is None:
        generator = take_generator()
    if prob == 0 or torch.rand((), generator=generator, device="cpu").item() >= prob:
        return None
    order = torch.randperm(batch_size, generator=generator, device="cpu")
    return order if groups is None else _from_other_groups(order, groups.cpu(), generator)


def _check_groups(groups: Tensor, batch_size: int) -> None:
    if not isinstance(groups, Tensor) or groups.is_floating_point() or groups.is_complex():
        found = groups.dtype if isinstance(groups, Tensor) else type(groups).__name__
        raise TypeError(f"groups must be an integer tensor, got {found}")
    if groups.shape != (batch_size,):
        raise ValueError(f"groups must have shape ({batch_size},), got {tuple(groups.shape)}")


def _from_other_groups(order: Tensor, groups: Tensor, generator: torch.Generator) -> Tensor:
    """Give each sample a donor from another group.

    Arrange receivers and donors group by group, each in its own random order, and shift one list against the other by
    at least the size of the largest group and at most the number of remaining samples. If one group has more than half
    of the batch, no such permutation exists, and some donors are used more than once.
    """
    batch_size, (names, sizes) = len(order), groups.unique(return_counts=True)
    if len(names) == 1:
        return order
    largest = int(sizes.max())
    donors = torch.empty_like(order)
    if 2 * largest <= batch_size:
        place = torch.randperm(len(names), generator=generator, device="cpu")
        position = place[torch.searchsorted(names, groups)]
        givers = torch.randperm(batch_size, generator=generator, device="cpu")
        order, givers = (x[position[x].argsort(stable=True)] for x in (order, givers))
        shift = int(torch.randint(largest, batch_size - largest + 1, (), generator=generator, device="cpu"))
        donors[order] = givers.roll(-shift)
        return donors
    for name in names:
        takers = (groups == name).nonzero().flatten()
        others = order[groups[order] != name]
        repeats = -(-len(takers) // len(others))
        donors[takers] = others.repeat(repeats)[: len(takers)]
    return donors


def draw_own_share(batch_size: int, alpha: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw the share of its own moments that each sample keeps from Beta(alpha, alpha).

    The shares are ratios of gamma variates, computed in log space to stay accurate when alpha is close to 0.

    Args:
        batch_size: Number of samples B.
        alpha: Parameter of the distribution, above 0. Small values give shares near 0 or 1.
        generator: Source of randomness on the CPU; default: `take_generator()`.

    Returns:
        Shares (B,), float32, on the CPU.

    Raises:
        ValueError: `alpha` is not a finite number above 0.

    Example:
        >>> share = draw_own_share(1000, alpha=0.1, generator=torch.Generator().manual_seed(0))
        >>> share.shape, 0.45 < share.mean() < 0.55
        (torch.Size([1000]), tensor(True))
    """
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
        raise ValueError(f"alpha={alpha!r}: expected a finite number above 0")
    if generator is None:
        generator = take_generator()
    double: Any = dict(dtype=torch.float64, device="cpu")
    gamma = torch._standard_gamma(torch.full((2, batch_size), alpha + 1.0, **double), generator=generator)
    uniform = 1 - torch.rand(2, batch_size, generator=generator, **double)  # in (0, 1]
    log_gamma = gamma.log() + uniform.log() / alpha  # Gamma(alpha) = Gamma(alpha + 1) * U^(1 / alpha)
    return torch.sigmoid(log_gamma[0] - log_gamma[1]).float()
