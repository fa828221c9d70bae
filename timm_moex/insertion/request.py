"""Turn the call arguments `swap_index`, `swap_layer` and `own_share` into one exchange per site."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from ..utils.messages import did_you_mean

__all__ = ["DRAW", "Exchange", "requested_exchanges"]


class _Draw:
    def __repr__(self) -> str:
        return "DRAW"


DRAW: Any = _Draw()  # default of `swap_index`: the model draws


class Exchange(NamedTuple):
    """An exchange at one site."""

    swap_index: Tensor  # donor of each sample, (B,), int64
    own_share: Tensor | None  # share of a sample's own moments, (B,); None for 0


def requested_exchanges(
    moex: Any, swap_index: Any, swap_layer: str | None, own_share: Any, groups: Tensor | None
) -> dict[str, Exchange] | None:
    """Return the exchanges by site that a call of the model requests; None if the model should draw.

    `exchanging` explains the arguments.

    Raises:
        TypeError: `swap_index` is neither a tensor nor a mapping, or only `own_share` is a mapping.
        ValueError: A site is unknown, missing, named twice, or has shares but no donors; or the permutations differ
            although labels are mixed.
    """
    if groups is not None and swap_index is not DRAW:
        raise ValueError("groups and swap_index cannot be combined: swap_index already sets the donors")
    if swap_index is None or swap_index is DRAW:
        for name, value in (("swap_layer", swap_layer), ("own_share", own_share)):
            if value is not None:
                raise ValueError(f"{name}={value!r} has no effect without swap_index; pass swap_index as well")
        return None if swap_index is DRAW else {}
    donors = _donors(moex, swap_index, swap_layer, own_share)
    shares = dict.fromkeys(donors, own_share)
    if isinstance(own_share, Mapping):
        shares = _by_site("own_share", own_share, moex)
        if strangers := [site for site in shares if site not in donors]:
            raise ValueError(f"own_share names {strangers[0]!r}, but swap_index exchanges nothing there")
    indices, lam = list(donors.values()), moex.settings.lam
    if lam < 1 and any(index is not indices[0] for index in indices):  # `is`: Dynamo would recompile for every id()
        raise ValueError(
            f"lam={lam} mixes labels with one permutation; pass the same swap_index tensor for every site, or "
            "insert MoEx with lam=1"
        )
    return {site: Exchange(index, shares.get(site)) for site, index in donors.items()}


def _donors(moex: Any, swap_index: Any, swap_layer: str | None, own_share: Any) -> dict[str, Tensor]:
    """Return the donors by site."""
    if isinstance(swap_index, Mapping):
        if not swap_index:
            raise ValueError("swap_index={}: expected at least one site; pass None for a forward without an exchange")
        if swap_layer is not None:
            raise ValueError(f"swap_layer={swap_layer!r}: the keys of swap_index already name the sites")
        donors = _by_site("swap_index", swap_index, moex)
        return {site: index for site, index in donors.items() if index is not None}
    if not isinstance(swap_index, Tensor):
        found = type(swap_index).__name__
        raise TypeError(f"swap_index must be an int64 tensor, a mapping from site to donors, or None, got {found}")
    if isinstance(own_share, Mapping):
        raise TypeError("own_share is a mapping but swap_index is not; pass both as mappings by site")
    if swap_layer is not None:
        return _by_site("swap_layer", {swap_layer: swap_index}, moex)
    if len(moex.sites) > 1:
        raise ValueError(
            f"this model has several MoEx layers; pass swap_layer, one of: {', '.join(moex.site_names)}, or a mapping "
            "from site to donors as swap_index"
        )
    return {moex.site_names[0]: swap_index}


def _by_site(argument: str, values: Mapping[str, Any], moex: Any) -> dict[str, Any]:
    """Replace aliases by the names of sites."""
    named: dict[str, Any] = {}
    for key, value in values.items():
        site, sites = moex.aliases.get(key, key), moex.site_names
        if site not in sites:
            hint = did_you_mean(key, sites)
            raise ValueError(f"{argument}={key!r} is not one of this model's MoEx layers: {', '.join(sites)}{hint}")
        if site in named:
            raise ValueError(f"{argument} names the site {site!r} twice, once as {key!r}")
        named[site] = value
    return named
