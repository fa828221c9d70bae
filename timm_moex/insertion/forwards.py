"""Which forward is running, and what it exchanges.

An exchange belongs to one forward, so it is kept with the forward and the thread that runs it, never in the module.
Three things can separate the two, and each has its own answer:

- A KeyboardInterrupt leaves a forward without calling any hook. A forward therefore counts as running only while its
  frame is on the call stack.
- Gradient checkpointing computes segments again during backward, when other forwards may have followed. Autograd
  numbers its nodes in the order of their creation: the number of the node that asks for the segment tells the forward.
- torch.compile traces hooks, but neither frames nor these numbers. A traced forward is over when its graph is.
"""

import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from .request import Exchange

__all__ = ["Forward", "close", "keep_with", "open_", "recomputed", "running"]

_local = threading.local()  # stack: the forwards that this thread is in, outermost first; latest; thread
_finished: "weakref.WeakSet[Forward]" = weakref.WeakSet()  # and running ones: those whose graph may be alive
_lock = threading.Lock()


class Forward:
    """One forward through a model that holds MoEx.

    Args:
        moex: The model's MoEx.
        exchanges: By the name of the site; empty for a plain forward.
        frame: The frame of the model's call, which lives as long as the forward; None if `torch.compile` traces it.
        outer: The body of an `exchanging` that this forward belongs to, if there is one.
        is_body: Whether this is such a body, which ends with its `with` statement and not with a frame.
    """

    def __init__(
        self,
        moex: nn.Module,
        exchanges: dict[str, Exchange],
        frame: FrameType | None = None,
        outer: "Forward | None" = None,
        is_body: bool = False,
    ) -> None:
        self.moex = moex
        self.exchanges = exchanges
        self.frame = frame
        self.outer = outer
        self.is_body = is_body
        self.times_exchanged = dict.fromkeys(exchanges, 0)
        self.traced = torch.compiler.is_compiling()
        if not self.traced:
            self.graph_task = torch._C._current_graph_task_id()
            self.first_node = torch.autograd._get_sequence_nr()
            self.end_node: int | None = None
            self.thread = _this_thread()

    def check_exchanged_once(self) -> None:
        """Raise RuntimeError unless every exchange that was asked for happened exactly once."""
        for name, times in self.times_exchanged.items():
            if times != 1:
                raise RuntimeError(
                    f"site {name!r} exchanged {times} times in this forward instead of once; choose another layer"
                )

    def repeats(self, other: "Forward") -> bool:
        """Whether the other forward exchanges the same at the same sites."""
        mine, theirs = self.exchanges, other.exchanges
        return mine.keys() == theirs.keys() and all(a is b for k in mine for a, b in zip(mine[k], theirs[k]))

    def made_node(self, number: int) -> bool:
        """Whether autograd gave this number to a node during this forward, if it was in this forward's thread."""
        return self.first_node <= number and (self.end_node is None or number < self.end_node)


def _this_thread() -> object:
    """A mark of this thread; unlike its number, it is never used again."""
    if not hasattr(_local, "thread"):
        _local.thread = object()
    return _local.thread


def _is_on_call_stack(forward: Forward, frames: set[int], files: set[str]) -> bool:
    if forward.is_body:
        return True
    if forward.traced:  # what a graph break left to Python runs below the compiler's frame
        return any(file.endswith("eval_frame.py") for file in files)
    return id(forward.frame) in frames


def _stack() -> tuple[Forward, ...]:
    """The forwards that this thread is in, outermost first."""
    stack: tuple[Forward, ...] = getattr(_local, "stack", ())
    if torch.compiler.is_compiling() or not stack:
        return stack
    frames, files, frame = set(), set(), sys._getframe(1)
    while frame is not None:
        frames.add(id(frame))
        files.add(frame.f_code.co_filename)
        frame = frame.f_back  # type: ignore[assignment]
    stack = tuple(forward for forward in stack if _is_on_call_stack(forward, frames, files))
    _local.stack = stack
    return stack


def running(moex: nn.Module) -> Forward | None:
    """The innermost forward that this thread is in; None outside of any and while backward recomputes a segment."""
    for forward in reversed(_stack()):
        if forward.moex is moex:
            if torch.compiler.is_compiling() or forward.traced:
                return forward
            if forward.graph_task == torch._C._current_graph_task_id():
                return forward
    return None


def open_(forward: Forward) -> None:
    """Begin a forward in this thread."""
    _local.stack = (*_stack(), forward)
    if not forward.traced:
        _local.latest = forward  # keeps it until the next one, where no output of it has a graph
        with _lock:
            _finished.add(forward)


def close(forward: Forward, output: Any = None) -> None:
    """End a forward, and whatever was begun after it.

    Args:
        forward: One that `open_` began in this thread.
        output: What it computed; as long as the graph behind it lives, `recomputed` finds the forward.
    """
    stack: tuple[Forward, ...] = getattr(_local, "stack", ())
    if forward in stack:
        _local.stack = stack[: stack.index(forward)]
    if forward.outer is not None:
        for name, times in forward.times_exchanged.items():
            forward.outer.times_exchanged[name] += times
    forward.frame = None
    if not forward.traced:
        forward.end_node = torch.autograd._get_sequence_nr()
        keep_with(forward, output)


def keep_with(forward: Forward, output: Any) -> None:
    """Let a forward live as long as the autograd graph of its tensors."""
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


def recomputed(moex: nn.Module, called_directly: bool) -> Forward | None:
    """The forward whose checkpointed segment backward computes again; None if it was outside of any.

    Args:
        moex: The model's MoEx.
        called_directly: Whether the model's layers have run outside of any forward, so that this can be.

    Raises:
        RuntimeError: It cannot be told which forward that is.
    """
    node = torch._C._current_autograd_node()
    number = -1 if node is None else node._sequence_nr()
    with _lock:
        known = [forward for forward in _finished if forward.moex is moex and forward.made_node(number)]
    if not known:
        if called_directly:
            return None
        raise RuntimeError(
            "gradient checkpointing computes a segment again, but timm_moex does not know in which forward it was "
            "computed first, so it cannot repeat the exchange; do not nest checkpoints, use use_reentrant=False and "
            "torch.compile(fullgraph=True)"
        )
    innermost = max(known, key=lambda forward: forward.first_node)
    for other in known:  # in one thread forwards are nested or follow each other; numbers of two threads can be equal
        if other.thread is not innermost.thread and not other.repeats(innermost):
            raise RuntimeError(
                "gradient checkpointing computes a segment again, and forwards of two threads fit it; run backward "
                "before another thread's forward, or give each thread its own copy of the model"
            )
    return innermost
