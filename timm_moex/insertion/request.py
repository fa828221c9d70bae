"""Turn the call arguments `swap_index`, `swap_layer` and `own_share` into one exchange per site."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..utils.messages import did_you_mean

__all__ = ["DRAW", "Exchange", "requested_exchanges"]


class _Draw:
    def __repr__(self) -> str:
        return "DRAW"


DRAW: Any = _Draw()  # default of `swap_index`: the model draws


class Exchange(NamedTuple):
    """An exchange at one site.

    Attributes:
        swap_index: Donor of each sample, (B,), int64.
        own_share: Share of a sample's own moments, (B,); None for 0.
    """

    swap_index: Tensor
    own_share: Tensor | None


def requested_exchanges(
    swap_index: Any,
    swap_layer: str | None,
    own_share: Any,
    *,
    sites: Sequence[str],
    aliases: Mapping[str, str],
    lam: float,
) -> dict[str, Exchange]:
    """Return the exchanges that the arguments of a model's call request.

    Args:
        swap_index: Donors (B,), int64; a mapping from site to donors, or to None for a site without an
            exchange; or None for a plain call.
        swap_layer: The site, if there are several and `swap_index` is a tensor.
        own_share: Shares of own moments (B,), for every site or by site; None for 0.
        sites: Names of the model's sites.
        aliases: Site by alias.
        lam: Weight of a sample's own label in the loss.

    Returns:
        Exchange by site name; empty for a plain call.

    Raises:
        TypeError: `own_share` is a mapping and `swap_index` is not.
        ValueError: A site is unknown, missing, named twice or has shares but no donors; or the permutations differ
            even though labels are mixed.

    Example:
        >>> import torch
        >>> index = {"stage1": torch.tensor([1, 0]), "stage2": None}
        >>> list(requested_exchanges(index, None, None, sites=["stage1", "stage2"], aliases={}, lam=1.0))
        ['stage1']
    """
    if swap_index is None:
        for name, value in (("swap_layer", swap_layer), ("own_share", own_share)):
            if value is not None:
                raise ValueError(f"{name}={value!r} without swap_index: nothing would be exchanged")
        return {}
    if not isinstance(swap_index, Mapping):
        site = _single_site(swap_layer, own_share, sites, aliases)
        return {site: Exchange(swap_index, own_share)}
    if not swap_index:
        raise ValueError("swap_index={}: expected at least one site; pass None for a forward without an exchange")
    if swap_layer is not None:
        raise ValueError(f"swap_layer={swap_layer!r}: the keys of swap_index already name the sites")
    donors = _by_site("swap_index", swap_index, sites, aliases)
    donors = {site: index for site, index in donors.items() if index is not None}
    if isinstance(own_share, Mapping):
        shares = _by_site("own_share", own_share, sites, aliases)
        if strangers := [site for site in shares if site not in donors]:
            raise ValueError(f"own_share names {strangers[0]!r}, but swap_index exchanges nothing there")
    else:
        shares = dict.fromkeys(donors, own_share)
    indices = list(donors.values())
    if lam < 1 and any(index is not indices[0] for index in indices):  # `is`: Dynamo would recompile for every id()
        raise ValueError(
            f"lam={lam} mixes labels with one permutation; give every site the same swap_index tensor, or insert MoEx "
            "with lam=1"
        )
    return {site: Exchange(index, shares.get(site)) for site, index in donors.items()}


def _single_site(swap_layer: str | None, own_share: Any, sites: Sequence[str], aliases: Mapping[str, str]) -> str:
    if isinstance(own_share, Mapping):
        raise TypeError("own_share is a mapping but swap_index is not; pass both as mappings from site")
    if swap_layer is not None:
        return _known_site("swap_layer", swap_layer, sites, aliases)
    if len(sites) > 1:
        raise ValueError(
            f"this model has several MoEx layers; give swap_layer, one of: {', '.join(sites)}, or a mapping from site "
            "to swap_index"
        )
    return sites[0]


def _by_site(
    argument: str, values: Mapping[str, Any], sites: Sequence[str], aliases: Mapping[str, str]
) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for key, value in values.items():
        site = _known_site(argument, key, sites, aliases)
        if site in named:
            raise ValueError(f"{argument} names the site {site!r} twice, once as {key!r}")
        named[site] = value
    return named


def _known_site(argument: str, name: str, sites: Sequence[str], aliases: Mapping[str, str]) -> str:
    site = aliases.get(name, name)
    if site not in sites:
        raise ValueError(
            f"{argument}={name!r} is not among this model's MoEx layers: {', '.join(sites)}{did_you_mean(name, sites)}"
        )
    return site
