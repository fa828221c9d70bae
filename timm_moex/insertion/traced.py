"""Draw inside a compiled graph, as one opaque operator, so that no outcome, probability or epoch causes a recompile.

At a site without an exchange each sample is its own donor, so one graph covers every outcome.
"""

import itertools
import weakref
from typing import Any

import torch
from torch import Tensor

from .forwards import Forward
from .request import Exchange

__all__ = ["donors_in_graph", "draw_in_graph", "new_token", "own_in_graph"]

_by_token: "weakref.WeakValueDictionary[int, Any]" = weakref.WeakValueDictionary()  # the values are MoEx objects
_tokens = itertools.count()
_TAGS = [getattr(torch.Tag, n) for n in ("nondeterministic_seeded", "cudagraph_unsafe") if hasattr(torch.Tag, n)]


def new_token(moex: Any) -> Tensor:
    """Return a number that identifies this MoEx to a running graph.

    It is a tensor, so that it is an input of the graph, which then serves every model of the same architecture.
    """
    token = next(_tokens)
    _by_token[token] = moex
    return torch.tensor(token, device="cpu")


@torch.library.custom_op("timm_moex::draw", mutates_args=(), tags=_TAGS)
def _draw(x: Tensor, groups: Tensor | None, token: Tensor, sites: int) -> tuple[Tensor, Tensor]:
    moex = _by_token[int(token)]
    exchanges = moex.draw_forward(x, groups).exchanges
    donors = torch.arange(x.shape[0], device=x.device).repeat(sites, 1)
    shares = torch.zeros(sites, x.shape[0], dtype=torch.float32, device=x.device)
    for number, name in enumerate(moex.site_names):
        if name in exchanges:
            donors[number], share = exchanges[name]
            if share is not None:
                shares[number] = share
    return donors, shares


@_draw.register_fake
def _(x: Tensor, groups: Tensor | None, token: Tensor, sites: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(sites, x.shape[0], dtype=torch.int64), x.new_empty(sites, x.shape[0], dtype=torch.float32)


def draw_in_graph(moex: Any, x: Tensor, groups: Tensor | None) -> dict[str, Exchange]:
    """Draw for a training forward that `torch.compile` traces; every site has an exchange."""
    if torch.compiler._is_exporting_flag:  # Dynamo of torch 2.8 takes is_exporting() for True
        raise RuntimeError(
            "torch.export cannot export the random draw of a training forward; call model.eval() first, or export the "
            "call with swap_index=None"
        )
    donors, shares = torch.ops.timm_moex.draw(x.detach(), groups, moex.token, len(moex.sites))
    alpha = moex.settings.alpha
    return {name: Exchange(donors[n], shares[n] if alpha else None) for n, name in enumerate(moex.site_names)}


@torch.library.custom_op("timm_moex::donors", mutates_args=(), tags=_TAGS)
def _donors(output: Tensor, token: Tensor) -> Tensor:
    moex = _by_token[int(token)]
    donors = None if moex.last is None else moex.take(moex.last)
    return torch.arange(output.shape[0], device=output.device) if donors is None else donors.clone()


@_donors.register_fake
def _(output: Tensor, token: Tensor) -> Tensor:
    return output.new_empty(output.shape[0], dtype=torch.int64)


def donors_in_graph(moex: Any, output: Tensor) -> Tensor:
    """Return the donors of the forward that computed `output`, in a graph that contains model and loss."""
    return torch.ops.timm_moex.donors(output.detach(), moex.token)


@torch.library.custom_op("timm_moex::own", mutates_args=(), tags=_TAGS)
def _own(swap_index: Tensor, token: Tensor) -> Tensor:
    index = swap_index.clone()
    moex = _by_token[int(token)]
    moex.record(Forward(moex, {"": Exchange(index, None)}, traced=False), trains=True)
    return index


@_own.register_fake
def _(swap_index: Tensor, token: Tensor) -> Tensor:
    return torch.empty_like(swap_index)


def own_in_graph(moex: Any, exchanges: dict[str, Exchange]) -> dict[str, Exchange]:
    """Keep the donors passed to a compiled model for the loss; mixing labels requires a single permutation."""
    index = torch.ops.timm_moex.own(next(iter(exchanges.values())).swap_index, moex.token)
    return {name: Exchange(index, exchange.own_share) for name, exchange in exchanges.items()}
