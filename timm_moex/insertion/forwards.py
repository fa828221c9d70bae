"""Track which forward is running and what it exchanges.

An exchange belongs to one forward, so it is stored with that forward and the thread that runs it, never in the module.
Gradient checkpointing recomputes segments during backward, possibly after other forwards have run. Autograd numbers its
nodes in order of creation, so the number of the node that requests the segment identifies the forward. torch.compile
traces neither these numbers nor threads; a traced forward ends with its graph.
"""

import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from .request import Exchange
from .traced import new_trace, note_exchange, times_noted

__all__ = [
    "Forward",
    "close",
    "drawn_from",
    "forwards_behind",
    "has_graph",
    "is_recomputation",
    "keep_with",
    "open_",
    "recomputed",
    "remember",
    "running",
]


class _Local(threading.local):
    """What each thread has, from its first use on: a later first assignment would make Dynamo compile again."""

    def __init__(self) -> None:
        self.stack: tuple[Forward, ...] = ()  # the forwards that this thread is in, outermost first
        self.latest: Forward | None = None
        self.mark = object()  # identifies this thread; unlike the thread id, it is never reused


class _Traced:
    """The forwards that Dynamo traces; it loses what a trace assigns to a `threading.local` before a graph break."""

    def __init__(self) -> None:
        self.stack: tuple[Forward, ...] = ()


_local, _traced = _Local(), _Traced()
_known: "weakref.WeakSet[Forward]" = weakref.WeakSet()  # forwards whose graph may still be alive
_lock = threading.Lock()


class Forward:
    """One forward through a model that holds MoEx.

    Args:
        moex: The model's MoEx.
        exchanges: Exchange by site name; empty for a forward without an exchange.
        outer: The `exchanging` body that contains this forward, or None.
        is_body: Whether this represents the body of an `exchanging`.
        groups: Group of each sample, (B,), for a body in which the model draws.
        draws: Whether the model draws the exchanges of this body.
        seed: Seed of the draw's generator if the model drew; a recomputation uses the same seed.
        first_node: Number of the first autograd node that can belong to this forward; None for the next one.
        is_direct: Whether the layers are called one by one, so that no call marks the start of the forward.
    """

    def __init__(
        self,
        moex: Any,
        exchanges: dict[str, Exchange],
        *,
        outer: "Forward | None" = None,
        is_body: bool = False,
        groups: Tensor | None = None,
        draws: bool = False,
        seed: int | None = None,
        first_node: int | None = None,
        is_direct: bool = False,
    ) -> None:
        self.moex = moex
        self.exchanges = exchanges
        self.outer = outer
        self.is_body = is_body
        self.groups = groups
        self.draws = draws
        self.seed = seed
        self.is_direct = is_direct
        self.met: set[str] = set()  # in a direct pass: sites met so far, the first one, and the node at the last one
        self.first_site = ""
        self.last_node = 0
        self.times_exchanged = dict.fromkeys(exchanges, 0)
        self.traced = torch.compiler.is_compiling()
        if self.traced:
            self.trace = new_trace()
        else:
            self.without_grad = not torch.is_grad_enabled()
            self.graph_task = torch._C._current_graph_task_id()
            self.first_node = torch.autograd._get_sequence_nr() if first_node is None else first_node
            self.end_node: int | None = None
            self.thread = _local.mark
            self.consumed = False  # a loss has mixed the labels of its draw

    def note_exchange(self, name: str) -> None:
        """Count an exchange at a site."""
        if self.traced:
            note_exchange(self.trace, name)
        else:
            self.times_exchanged[name] += 1

    def times_at(self, name: str) -> int:
        """Return how often a site exchanged."""
        return times_noted(self.trace, name) if self.traced else self.times_exchanged[name]

    def check_exchanged_once(self) -> None:
        """Raise RuntimeError unless every exchange of this forward happened exactly once."""
        for name in self.times_exchanged:
            if (times := self.times_at(name)) != 1:
                raise RuntimeError(
                    f"site {name!r} exchanged {times} times in this forward instead of once; choose another layer"
                )

    def repeats(self, other: "Forward") -> bool:
        """Return whether the other forward has the same exchanges at the same sites."""
        mine, theirs = self.exchanges, other.exchanges
        return mine.keys() == theirs.keys() and all(a is b for k in mine for a, b in zip(mine[k], theirs[k]))

    def made_node(self, number: int) -> bool:
        """Return whether autograd assigned this number during this forward, assuming both ran in the same thread."""
        return self.first_node <= number and (self.end_node is None or number < self.end_node)


def _stack() -> tuple[Forward, ...]:
    """Return the forwards that this thread is in, outermost first."""
    return (*_local.stack, *_traced.stack)


def running(moex: Any) -> Forward | None:
    """Return this thread's innermost forward; None if there is none or if backward is recomputing a segment."""
    for forward in reversed(_stack()):
        if forward.moex is moex:
            if torch.compiler.is_compiling() or forward.traced:
                return forward
            if forward.graph_task == torch._C._current_graph_task_id():
                return forward
    return None


def open_(forward: Forward) -> None:
    """Begin a forward in this thread. It must be ended with `close`, even after an error."""
    place = _traced if forward.traced else _local
    place.stack = (*place.stack, forward)
    remember(forward)


def remember(forward: Forward) -> None:
    """Keep a forward available to `recomputed` while the graph of its outputs is alive."""
    if not forward.traced:
        _local.latest = forward  # keep it until the next forward if none of its outputs has a graph
        with _lock:
            _known.add(forward)


def close(forward: Forward, output: Any = None) -> None:
    """End a forward.

    Args:
        forward: A forward begun by `open_` in this thread.
        output: Its output. `recomputed` can find the forward while the graph of this output is alive.
    """
    place = _traced if forward.traced else _local
    if forward in place.stack:
        place.stack = place.stack[: place.stack.index(forward)]
    if forward.outer is not None:
        for name in forward.times_exchanged:
            forward.outer.times_exchanged[name] += forward.times_at(name)
    if not forward.traced:
        forward.end_node = torch.autograd._get_sequence_nr()
        keep_with(forward, output)
    if output is None and (forward.traced or forward.seed is not None):
        forward.moex.pending = None  # it failed: no loss follows, and the caller may call again


def keep_with(forward: Forward, output: Any) -> None:
    """Keep a forward alive as long as the autograd graph of an output."""
    if forward.traced or torch.compiler.is_compiling():
        return
    for x in _tensors(output):
        if x.grad_fn is not None:
            metadata: Any = x.grad_fn.metadata  # a dict that lives as long as the node
            metadata.setdefault("timm_moex", []).append(forward)


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, list, dict)):
        values: Iterable[Any] = output.values() if isinstance(output, dict) else output
        for value in values:
            yield from _tensors(value)


def has_graph(output: Any) -> bool:
    """Return whether an output (a tensor, or a tuple, list or dict of tensors) requires gradients."""
    return any(x.requires_grad for x in _tensors(output))


def forwards_behind(output: Any) -> Iterator[Forward]:
    """Yield the forwards that computed an output, nearest first, as far as its autograd graph records them."""
    queue, seen = deque(x.grad_fn for x in _tensors(output)), {None}
    while queue:
        node: Any = queue.popleft()
        if node in seen:
            continue
        seen.add(node)
        yield from node.metadata.get("timm_moex", ())
        queue.extend(following for following, _ in node.next_functions)


def is_recomputation() -> bool:
    """Return whether gradient checkpointing is currently recomputing a segment during backward."""
    if torch._C._current_graph_task_id() == -1:
        return False
    node = torch._C._current_autograd_node()
    if node is not None and node.name().startswith("CheckpointFunction"):
        return True
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return hooks is not None and hooks[0].__module__ == "torch.utils.checkpoint"


def drawn_from(moex: Any, seed: int) -> Forward | None:
    """Find the forward whose draw used a seed; None if there was none or its graph no longer exists."""
    with _lock:
        return next((forward for forward in _known if forward.moex is moex and forward.seed == seed), None)


def recomputed(moex: Any) -> Forward | None:
    """Find the forward whose checkpointed segment backward is recomputing; None if it belongs to no forward.

    Args:
        moex: The model's MoEx.

    Raises:
        RuntimeError: Several forwards match, and their exchanges differ.
    """
    node = torch._C._current_autograd_node()
    number = -1 if node is None else node._sequence_nr()
    with _lock:
        fitting = [forward for forward in _known if forward.moex is moex and forward.made_node(number)]
    if not fitting:
        return None
    innermost = max(fitting, key=lambda forward: forward.first_node)
    for other in fitting:
        if other.repeats(innermost):
            continue
        if other.is_direct and innermost.is_direct and other.thread is innermost.thread:
            raise RuntimeError(
                "gradient checkpointing recomputes a segment that matches two forwards, because the layers were called "
                "one by one; run backward before the next forward, or run each forward in timm_moex.exchanging(model)"
            )
        # within a thread, forwards are nested or sequential; node numbers of two threads can be equal
        if other.thread is not innermost.thread:
            raise RuntimeError(
                "gradient checkpointing recomputes a segment that matches forwards of two threads; run backward before "
                "another thread's forward, or give each thread its own copy of the model"
            )
    return innermost
