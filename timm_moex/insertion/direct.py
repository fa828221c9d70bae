"""Find the forward that reaches a site, even if layers are called one by one instead of through the model."""

import threading
from typing import Any

import torch
from torch import Tensor, nn

from .draw import take_generator
from .forwards import Forward, recomputed, remember, running
from .traced import draw_in_graph

__all__ = ["UNKNOWN_ORIGIN", "forward_at"]

UNKNOWN_ORIGIN = (
    "gradient checkpointing recomputes a segment, but the forward that first computed it is unknown, so its exchange "
    "cannot be repeated. Set use_reentrant=False (use_reentrant=True first runs the segment without gradients, so "
    "nothing is drawn), preserve_rng_state=True and, if the model is compiled, fullgraph=True; or call the model in "
    "the body of timm_moex.exchanging(model, swap_index)"
)


def forward_at(moex: Any, name: str, module: nn.Module, x: Any) -> Forward | None:
    """Return the forward that reaches a site, and count its exchange there; None for a plain forward."""
    forward = running(moex)
    if forward is not None and not forward.draws:
        if name in forward.exchanges:
            forward.note_exchange(name)
        return forward
    groups = None if forward is None else forward.groups
    if torch.compiler.is_compiling():
        return _traced_direct(moex, name, module, x, groups)
    if torch._C._current_graph_task_id() != -1:
        return _recomputed_direct(moex, name, module)
    return _direct_pass(moex, name, module, x, groups)


def _traced_direct(moex: Any, name: str, module: nn.Module, x: Any, groups: Tensor | None) -> Forward | None:
    if not moex.draws(module.training):
        return None
    if len(moex.sites) > 1 and not moex.settings.per_site:
        raise RuntimeError("separately compiled layers cannot draw one of several sites; compile the whole model")
    return Forward(moex, {name: draw_in_graph(moex, x, groups)[name]})


def _direct_pass(moex: Any, name: str, module: nn.Module, x: Any, groups: Tensor | None) -> Forward:
    """Return the current pass through the layers; reaching the same site again starts a new pass."""
    key, node = threading.get_ident(), torch.autograd._get_sequence_nr()
    forward = moex.direct_passes.get(key)
    if forward is None or name in forward.met:
        first_node = 0
        if forward is not None:
            forward.end_node, first_node = node, forward.last_node
        if moex.draws(module.training):
            forward = moex.draw_forward(x, groups, first_node=first_node, is_direct=True)
        else:
            moex.warn_if_unused(module.training, "it has no MoExLoss")
            forward = Forward(moex, {}, first_node=first_node, is_direct=True)
        moex.direct_passes[key] = forward
    forward.met.append(name)
    forward.last_node = node
    remember(forward)
    return forward


def _recomputed_direct(moex: Any, name: str, module: nn.Module) -> Forward | None:
    forward = recomputed(moex)
    if forward is None or forward.draws or (forward.is_direct and forward.without_grad):
        if moex.ever_exchanged or moex.draws(module.training):
            raise RuntimeError(UNKNOWN_ORIGIN)
        return None
    if forward.is_direct and forward.seed is not None and forward.met[0] == name:
        take_generator()  # as in the first computation, so that later draws get the same numbers
    return forward
