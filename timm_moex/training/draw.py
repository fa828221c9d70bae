"""What is drawn for a batch: whether it is exchanged, where, with whom, and how much of its own moments stays.

Everything comes from torch's CPU generator, which timm's --seed and the rank of the process govern.
"""

import torch
from torch import Tensor

from ..insertion.moex import MoEx
from ..utils.checks import check_fraction

__all__ = ["draw_exchange", "draw_own_share", "draw_swap_index"]


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
        generator: Source of randomness on the CPU; default torch's own, which timm's seed and rank govern.
        groups: Group of each sample (its drawing style, device, hospital), (B,), whole numbers. Each donor then comes
            from another group than the sample it gives to, as in MixStyle's "crossdomain"; if the whole batch is one
            group, from that one. None for donors from anywhere.

    Returns:
        Donors (B,), int64, on the CPU: a permutation of range(B). Only if one group has more than half of the batch do
        samples of the other groups give more often than once. None for no exchange.

    Raises:
        ValueError: `prob` is no number in [0, 1], `batch_size` no whole number >= 1, or `groups` has another length.
        TypeError: `generator` is no `torch.Generator`, or `groups` no tensor of whole numbers.

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
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}: expected a whole number >= 1")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if groups is not None:
        if not isinstance(groups, Tensor) or groups.is_floating_point() or groups.is_complex():
            found = groups.dtype if isinstance(groups, Tensor) else type(groups).__name__
            raise TypeError(f"groups must be a tensor of whole numbers, got {found}")
        if groups.shape != (batch_size,):
            raise ValueError(f"groups must have shape ({batch_size},), got {tuple(groups.shape)}")
    if prob == 0 or torch.rand((), generator=generator).item() >= prob:
        return None
    order = torch.randperm(batch_size, generator=generator)
    return order if groups is None else _from_other_groups(order, groups.cpu(), generator)


def _from_other_groups(order: Tensor, groups: Tensor, generator: torch.Generator | None) -> Tensor:
    """Give each sample a donor from another group.

    Takers and donors are laid out group by group, each in an order of their own, and shifted against each other. A
    shift by at least the largest group, and at most the rest, leads out of every group: the donors are a permutation.
    If one group has more than half of the batch no such permutation exists, and some donors give more than once.
    """
    batch_size, (names, sizes) = len(order), groups.unique(return_counts=True)
    if len(names) == 1:
        return order
    largest = int(sizes.max())
    donors = torch.empty_like(order)
    if 2 * largest <= batch_size:
        place = torch.randperm(len(names), generator=generator)
        position = place[torch.searchsorted(names, groups)]
        givers = torch.randperm(batch_size, generator=generator)
        order, givers = (x[position[x].argsort(stable=True)] for x in (order, givers))
        shift = int(torch.randint(largest, batch_size - largest + 1, (), generator=generator))
        donors[order] = givers.roll(-shift)
        return donors
    for name in names:
        takers = (groups == name).nonzero().flatten()
        others = order[groups[order] != name]
        repeats = -(-len(takers) // len(others))
        donors[takers] = others.repeat(repeats)[: len(takers)]
    return donors


def draw_own_share(batch_size: int, alpha: float) -> Tensor:
    """Draw the share of own moments of each sample from Beta(alpha, alpha).

    Args:
        batch_size: Number of samples B.
        alpha: Of the distribution, above 0. Small values give shares near 0 or 1.

    Returns:
        Shares (B,), float32, on the CPU, from torch's own generator.

    Raises:
        ValueError: `alpha` is not above 0.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> share = draw_own_share(1000, alpha=0.1)
        >>> share.shape, 0.45 < share.mean() < 0.55
        (torch.Size([1000]), tensor(True))
    """
    if not alpha > 0:
        raise ValueError(f"alpha={alpha!r}: expected a number above 0")
    return torch.distributions.Beta(alpha, alpha).sample((batch_size,))


def draw_exchange(
    moex: MoEx, batch_size: int, prob: float, device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draw what a model's MoEx exchanges in a batch.

    Args:
        moex: The model's, with its sites and settings.
        batch_size: Number of samples B.
        prob: Probability of an exchange, here in place of the MoEx's own.
        device: Where the model is.

    Returns:
        Donors (B,), int64, and shares of own moments (B,), by site; the shares are empty without `moex.alpha`. Both
        are empty for a batch that is not exchanged.

    Example:
        >>> import timm, timm_moex
        >>> moex = timm_moex.find_moex(timm.create_model("moex_resnet18", moex_preset="mixstyle"))
        >>> donors, shares = draw_exchange(moex, batch_size=4, prob=1.0, device=torch.device("cpu"))
        >>> list(donors), shares["stage1"].shape
        (['stage1', 'stage2', 'stage3'], torch.Size([4]))
    """
    donors: dict[str, Tensor] = {}
    if moex.each_site:
        for name in moex.site_names:
            if (swap_index := draw_swap_index(batch_size, prob)) is not None:
                donors[name] = swap_index
    elif (swap_index := draw_swap_index(batch_size, prob)) is not None:
        names = moex.site_names
        donors[names[int(torch.randint(len(names), ())) if len(names) > 1 else 0]] = swap_index
    shares = {name: draw_own_share(batch_size, moex.alpha) for name in donors} if moex.alpha else {}
    on_device = [{name: x.to(device, non_blocking=True) for name, x in drawn.items()} for drawn in (donors, shares)]
    return on_device[0], on_device[1]
