"""Track which forward is running and what it exchanges.

An exchange belongs to one forward, so it is stored with that forward and the thread that runs it, never in the module.
Gradient checkpointing recomputes segments during backward, possibly after other forwards have run. Autograd numbers its
nodes in order of creation, so the number of the node that requests the segment identifies the forward. torch.compile
traces neither these numbers nor threads; a traced forward ends with its graph.
"""

import itertools
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .request import Exchange

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
    """State of each thread, complete from its first use: an attribute added later would make Dynamo recompile."""

    def __init__(self) -> None:
        self.stack: tuple[Forward, ...] = ()  # the forwards running in this thread, outermost first
        self.latest: Forward | None = None
        self.mark = object()  # identifies this thread; unlike the thread id, it is never reused


class _Traced:
    """The forwards that Dynamo traces; a graph break would lose what the trace assigned to a `threading.local`."""

    def __init__(self) -> None:
        self.stack: tuple[Forward, ...] = ()


_local, _traced = _Local(), _Traced()
_known: "weakref.WeakSet[Forward]" = weakref.WeakSet()  # forwards whose graph may still be alive
_lock = threading.Lock()
_traces = itertools.count()
_noted: set[tuple[int, str]] = set()  # (trace, site) that exchanged in a forward traced by Dynamo


@torch._dynamo.assume_constant_result
def _new_trace() -> int:
    """Return a number that identifies a forward while Dynamo traces it."""
    return next(_traces)


@torch._dynamo.assume_constant_result
def _note_in_trace(trace: int, site: str) -> bool:
    """Record that a site exchanges in a graph. This runs while Dynamo traces, not when the graph runs.

    A counter in the forward would be a side effect, which Dynamo does not allow inside a checkpointed segment.
    """
    _noted.add((trace, site))
    return True


@torch._dynamo.assume_constant_result
def _times_in_trace(trace: int, site: str) -> int:
    """Return 1 if a site exchanges in a graph, else 0. It is not a count, because Dynamo may trace a part twice."""
    return int((trace, site) in _noted)


@dataclass(eq=False)
class Forward:
    """One forward through a model with MoEx, or the body of an `exchanging`."""

    moex: Any
    exchanges: dict[str, Exchange]  # by site; empty for a plain forward
    outer: "Forward | None" = None  # the `exchanging` body that contains it
    is_body: bool = False
    draws: bool = False  # a body in which the model draws
    groups: Tensor | None = None  # for the draws in that body
    seed: int | None = None  # of the draw's generator if the model drew; a recomputation uses the same seed
    first_node: int | None = None  # the first autograd node that can belong to it; None for the next node
    is_direct: bool = False  # layers are called one by one, so no call marks its start
    traced: bool | None = None  # by Dynamo; if None, torch is asked, which is wrong within an operator

    def __post_init__(self) -> None:
        self.times_exchanged = dict.fromkeys(self.exchanges, 0)
        self.traced = torch.compiler.is_compiling() if self.traced is None else self.traced
        if self.traced:
            self.trace = _new_trace()
        else:
            self.consumed = False  # a loss has mixed the labels with these donors
            self.frozen = False  # its output needs no gradient
            self.without_grad = not torch.is_grad_enabled()
            self.graph_task = torch._C._current_graph_task_id()
            self.thread = _local.mark
            self.first_node = torch.autograd._get_sequence_nr() if self.first_node is None else self.first_node
            self.end_node: int | None = None
            self.met: list[str] = []  # in a direct pass: the sites so far, and the node at the last one
            self.last_node = 0

    @property
    def donors(self) -> Tensor | None:
        """Donors for the labels: those of any site, because a model that mixes labels uses one permutation."""
        return next((exchange.swap_index for exchange in self.exchanges.values()), None)

    def note_exchange(self, name: str) -> None:
        """Count an exchange at a site."""
        if self.traced:
            _note_in_trace(self.trace, name)
        else:
            self.times_exchanged[name] += 1

    def times_at(self, name: str) -> int:
        """Return how often a site exchanged."""
        return _times_in_trace(self.trace, name) if self.traced else self.times_exchanged[name]

    def check_exchanged_once(self) -> None:
        """Raise RuntimeError unless every exchange of this forward happened exactly once."""
        for name in self.times_exchanged:
            if (times := self.times_at(name)) != 1:
                raise RuntimeError(
                    f"site {name!r} exchanged {times} times in this forward, expected once; choose another layer"
                )

    def repeats(self, other: "Forward") -> bool:
        """Return whether the other forward has the same exchanges at the same sites."""
        mine, theirs = self.exchanges, other.exchanges
        return mine.keys() == theirs.keys() and all(a is b for k in mine for a, b in zip(mine[k], theirs[k]))


def running(moex: Any) -> Forward | None:
    """Return this thread's innermost forward; None if there is none or if backward is recomputing a segment."""
    for forward in reversed((*_local.stack, *_traced.stack)):
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
    """End a forward; `output` is None if it failed."""
    place = _traced if forward.traced else _local
    if forward in place.stack:
        place.stack = place.stack[: place.stack.index(forward)]
    if forward.outer is not None:
        for name in forward.times_exchanged:
            forward.outer.times_exchanged[name] += forward.times_at(name)
    if not forward.traced:
        forward.end_node = torch.autograd._get_sequence_nr()
        forward.frozen = not has_graph(output)
        keep_with(forward, output)
    if output is None and (forward.traced or forward.moex.last is forward):
        forward.moex.last = None  # no loss follows, and the caller may call again


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

    Raises:
        RuntimeError: Several forwards match, and their exchanges differ.
    """
    node = torch._C._current_autograd_node()
    number = -1 if node is None else node._sequence_nr()
    with _lock:
        mine: list[Any] = [forward for forward in _known if forward.moex is moex]
    fitting = [f for f in mine if f.first_node <= number and (f.end_node is None or number < f.end_node)]
    if not fitting:
        return None
    innermost = max(fitting, key=lambda forward: forward.first_node)
    for other in fitting:
        if other.repeats(innermost):
            continue
        if other.thread is not innermost.thread:  # node numbers of two threads can be equal
            raise RuntimeError(
                "gradient checkpointing recomputes a segment that matches forwards of two threads; run backward before "
                "another thread's forward, or give each thread its own copy of the model"
            )
        if other.is_direct and innermost.is_direct:  # other forwards of a thread are nested or sequential
            raise RuntimeError(
                "gradient checkpointing recomputes a segment that matches two forwards, because the layers were called "
                "one by one; run backward before the next forward, or run each forward in timm_moex.exchanging(model)"
            )
    return innermost
