"""Look up the backends of an exchange by name, and choose the default."""

import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from ..utils.messages import did_you_mean
from .arguments import TRITON_DTYPES, Formula, is_plain
from .closed_form import moment_exchange_closed_form
from .reference import moment_exchange_ref

__all__ = ["BACKENDS", "default_backend", "find_backend"]


def _triton(*args) -> Tensor:
    from ._triton import moment_exchange_triton  # imported on use: triton is not available everywhere

    return moment_exchange_triton(*args)


BACKENDS = {"reference": moment_exchange_ref, "closed_form": moment_exchange_closed_form, "triton": _triton}


def find_backend(backend: str) -> Callable[..., Tensor]:
    """Return the backend with this name."""
    if backend not in BACKENDS:
        hint = did_you_mean(str(backend).lower(), BACKENDS, 0.3)
        raise ValueError(f"backend={backend!r}: expected None or one of {', '.join(BACKENDS)}{hint}")
    return BACKENDS[backend]


def default_backend(x: Tensor, positive_only: bool) -> str:
    """Choose the fastest backend: the Triton kernels in eager mode on an NVIDIA GPU, otherwise the closed form.

    On an H200 in eager mode, Triton took 0.12 to 0.77 of the closed form's time in every case of
    benchmarks/results/op.csv and scaling.csv. Compiled, it took 1.12 to 1.23 of the closed form's time, because
    torch.compile fuses the closed form (compile.csv). The kernels support ordinary tensors of three dtypes, and do not
    support `positive_only`.
    """
    eager = not torch.compiler.is_compiling() and not torch.jit.is_tracing() and is_plain(x)
    supported = x.device.type == "cuda" and x.dtype in TRITON_DTYPES and not positive_only
    return "triton" if eager and supported and _triton_runs(x.device.index) else "closed_form"


@cache
def _triton_runs(gpu: int) -> bool:
    """Try the kernels once on a GPU: they need Triton, an NVIDIA card that it supports, and a C compiler."""
    if torch.version.hip or find_spec("triton") is None:
        return False
    try:
        with torch.inference_mode(False), torch.enable_grad():  # the first exchange may run under no_grad
            x = torch.ones(2, 2, 2, device=f"cuda:{gpu}", requires_grad=True)
            y = _triton(x, torch.tensor([1, 0], device=x.device), None, Formula((1,)))
            torch.autograd.grad(y.sum(), x)
    except Exception as error:  # from Triton, the compiler or the driver
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        warnings.warn(
            f"Triton does not run on cuda:{gpu}; moment_exchange uses the slower closed form instead. {reason}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True
