"""The passes of fused.py over large CPU tensors: fused.cpp, compiled when first needed.

PyTorch has no fast primitive for these passes over a strided axis, and a chain of primitives reads the features again
and again. The source is a hundred lines without dependencies; a C++ compiler builds it in a few seconds, once per
process, into a folder that is gone once the library is loaded. Without a compiler PyTorch does the work.
"""

import ctypes
import functools
import logging
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

_logger = logging.getLogger(__name__)

# Elements from which the library is worth its build, and elements that are worth a thread.
MIN_NUMEL = 2**18
_PER_THREAD = 2**17
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread")
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class Layout(NamedTuple):
    """A dense tensor as rows of (reduced, inner) elements, moments being taken over `reduced`."""

    order: tuple[int, ...]  # axes by falling stride
    shape: tuple[int, ...]  # of the moments, in that order; 1 for a reduced axis
    rows: int
    reduced: int
    inner: int


@functools.cache
def library() -> ctypes.CDLL | None:
    """Compile and load fused.cpp; None, with a word in the log, where that is not possible."""
    compiler = shutil.which("c++")
    if compiler is None or sys.platform == "win32":
        _logger.info("Moment Exchange: no C++ compiler, so PyTorch's operators work on large CPU tensors too.")
        return None
    _logger.info("Moment Exchange: compiling its loops for this CPU, a few seconds.")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/fused.so"
        command = [compiler, *_FLAGS, str(Path(__file__).with_name("fused.cpp")), "-o", path]
        build = subprocess.run(command, capture_output=True, text=True)
        if build.returncode:
            _logger.warning(f"Moment Exchange: {compiler} failed, PyTorch's operators are used.\n{build.stderr[-500:]}")
            return None
        try:
            loaded = ctypes.CDLL(path)
        except OSError as error:  # for one, a temporary folder mounted noexec
            _logger.warning(f"Moment Exchange: the compiled loops do not load, PyTorch's operators are used. {error}")
            return None
    _logger.info(f"Moment Exchange: compiled in {time.perf_counter() - start:.1f} s.")
    return loaded


def dense_layout(x: Tensor, dims: tuple[int, ...]) -> Layout | None:
    """`x` as rows of (reduced, inner) elements; None if it is not dense or its moments run over split axes."""
    order = (0, *sorted(range(1, x.ndim), key=lambda d: -x.stride(d)))
    expected = 1
    for d in reversed(order):
        if x.shape[d] > 1 and x.stride(d) != expected:
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


def layout(x: Tensor, dims: tuple[int, ...]) -> Layout | None:
    """How the loops see `x` with moments over `dims`; None if they cannot or need not work on it."""
    # Tracers and tensor subclasses must see operators; `type` because a subclass passes isinstance.
    if torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter) or torch.jit.is_tracing():
        return None
    if x.device.type != "cpu" or x.dtype not in _NAMES or x.numel() < MIN_NUMEL:
        return None
    found = dense_layout(x, dims)
    return found if found and library() else None


def _call(name: str, x: Tensor, layout: Layout, *tensors: Tensor | None) -> None:
    pointers = [ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in (x, *tensors)]
    threads = max(1, min(torch.get_num_threads(), x.numel() // _PER_THREAD))
    sizes = (layout.rows, layout.reduced, layout.inner, threads)
    getattr(library(), f"{name}_{_NAMES[x.dtype]}")(*pointers, *map(ctypes.c_int64, sizes))


def _in_order(moment: Tensor, layout: Layout) -> Tensor:
    return moment.permute(layout.order).contiguous()


def _pair(name: str, x: Tensor, layout: Layout, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    """Two float32 results of the moments' shape, axes in the order of `x`."""
    first, second = torch.empty(2, *layout.shape, dtype=torch.float32).unbind()
    _call(name, x, layout, *tensors, first, second)
    back = [layout.order.index(d) for d in range(x.ndim)]
    return first.permute(back), second.permute(back)


def moments(x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance, with kept axes."""
    return _pair("moments", x, layout)


def sums(x: Tensor, grad: Tensor, mean: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """sum(grad) and sum(grad * (x - mean)), with kept axes."""
    return _pair("sums", x, layout, _laid_out_as(x, grad), _in_order(mean, layout))


def combine(
    x: Tensor, mean: Tensor, a: Tensor, b: Tensor, layout: Layout, grad: Tensor | None = None, c: Tensor | None = None
) -> Tensor:
    """(x - mean) * a + b, and + grad * c where there is a grad."""
    y = torch.empty_like(x)
    mean, a, b = (_in_order(moment, layout) for moment in (mean, a, b))
    if grad is not None:
        grad, c = _laid_out_as(x, grad), _in_order(c, layout)
    _call("combine", x, layout, grad, mean, a, b, c, y)
    return y


def _laid_out_as(x: Tensor, grad: Tensor) -> Tensor:
    return grad if grad.stride() == x.stride() else torch.empty_like(x).copy_(grad)
