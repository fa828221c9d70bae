"""Moment Exchange in Triton: the closed form of closed_form.py in four kernels. No other file imports triton.

A tensor is viewed as consecutive rows of (R, K) elements, with moments over R. R is contiguous for `in` over NCHW and
`pono` over channels_last, and strided (K > 1) for the opposite layouts. Each moment has a position p, which belongs to
row p // K. The forward pass runs `_moments` and `_exchange`. The backward pass runs `_sums` and `_grad`, with an
`index_add` in between that sums the gradients of each donor's moments over its receivers. If all moments are
constants, the backward pass runs only `_grad`, which then reads the gradient but not x. All offsets are 64 bits wide.
"""

import math
import os
import re
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arguments import TRITON_DTYPES, Formula, is_plain
from .reference import moment_exchange_ref

# Triton also reads this variable at import: if set, kernels run on the CPU, in NumPy.
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
_TILE = 4096  # elements of x that a program processes at a time


@triton.jit
def _positions(P, R, K, BLOCK_P: tl.constexpr, STRIDED: tl.constexpr):
    """Return this program's positions, the start of each position's elements in x, and which positions exist."""
    if STRIDED:
        blocks = tl.cdiv(K, BLOCK_P)
        row = (tl.program_id(0) // blocks).to(tl.int64)
        i = (tl.program_id(0) % blocks) * BLOCK_P + tl.arange(0, BLOCK_P)
        return row * K + i, row * R * K + i, i < K
    else:
        p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
        return p, p * R, p < P


@triton.jit
def _donor(p, exists, swap_index, P, per_sample):
    """Return each position's donor and whether it is valid: an index out of range reads nothing and gives NaN."""
    sample = p // per_sample
    donor = tl.load(swap_index + sample, mask=exists, other=0)
    return p + (donor - sample) * per_sample, exists & (donor >= 0) & (donor < P // per_sample)


@triton.jit
def _new(moment, own, p, exists, donor, known, own_share, per_sample, SHARED: tl.constexpr):
    """Return the new moment of each position: its donor's, or a mixture of the two."""
    donated = tl.load(moment + donor, mask=known, other=float("nan"))
    if SHARED:
        share = tl.load(own_share + p // per_sample, mask=exists, other=1.0)
        return share * own + (1 - share) * donated
    else:
        return donated


@triton.jit
def _moments(x, mean, std, P, R, K, eps, BLOCK_P: tl.constexpr, BLOCK_R: tl.constexpr, STRIDED: tl.constexpr):
    p, start, exists = _positions(P, R, K, BLOCK_P, STRIDED)
    total = tl.zeros([BLOCK_P, BLOCK_R], tl.float32)
    for r0 in range(0, R, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R).to(tl.int64)
        inside = exists[:, None] & (r < R)[None, :]
        total += tl.load(x + start[:, None] + r[None, :] * K, mask=inside, other=0.0).to(tl.float32)
    m = tl.sum(total, 1) / R
    squares = tl.zeros([BLOCK_P, BLOCK_R], tl.float32)
    for r0 in range(0, R, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R).to(tl.int64)
        inside = exists[:, None] & (r < R)[None, :]
        d = tl.load(x + start[:, None] + r[None, :] * K, mask=inside, other=0.0).to(tl.float32) - m[:, None]
        squares += tl.where(inside, d * d, 0.0)
    tl.store(mean + p, m, mask=exists)
    tl.store(std + p, tl.sqrt(tl.sum(squares, 1) / (R - 1) + eps), mask=exists)


@triton.jit
def _exchange(
    x,
    y,
    mean,
    std,
    swap_index,
    own_share,
    P,
    R,
    K,
    per_sample,
    MOMENTS: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_R: tl.constexpr,
    STRIDED: tl.constexpr,
):
    p, start, exists = _positions(P, R, K, BLOCK_P, STRIDED)
    donor, known = _donor(p, exists, swap_index, P, per_sample)
    m = tl.load(mean + p, mask=exists, other=0.0)
    new_mean, scale = m, tl.full([BLOCK_P], 1.0, tl.float32)
    if MOMENTS != "std":
        new_mean = _new(mean, m, p, exists, donor, known, own_share, per_sample, SHARED)
    if MOMENTS != "mean":
        s = tl.load(std + p, mask=exists, other=1.0)
        scale = _new(std, s, p, exists, donor, known, own_share, per_sample, SHARED) / s
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R).to(tl.int64)
    at = start[:, None] + r[None, :] * K
    inside = exists[:, None] & (r < R)[None, :]
    d = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - m[:, None]
    tl.store(y + at, (d * scale[:, None] + new_mean[:, None]).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _sums(x, grad, mean, std, sums, P, R, K, BLOCK_P: tl.constexpr, BLOCK_R: tl.constexpr, STRIDED: tl.constexpr):
    """Compute sum(grad), then sum(grad * (x - mean)) / std."""
    p, start, exists = _positions(P, R, K, BLOCK_P, STRIDED)
    m = tl.load(mean + p, mask=exists, other=0.0)
    total = tl.zeros([BLOCK_P, BLOCK_R], tl.float32)
    along = tl.zeros([BLOCK_P, BLOCK_R], tl.float32)
    for r0 in range(0, R, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R).to(tl.int64)
        at = start[:, None] + r[None, :] * K
        inside = exists[:, None] & (r < R)[None, :]
        g = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        total += g
        along += g * (tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - m[:, None])
    tl.store(sums + p, tl.sum(total, 1), mask=exists)
    tl.store(sums + P + p, tl.sum(along, 1) / tl.load(std + p, mask=exists, other=1.0), mask=exists)


@triton.jit
def _grad(
    x,
    grad,
    grad_x,
    mean,
    std,
    sums,
    received,
    swap_index,
    own_share,
    P,
    R,
    K,
    per_sample,
    MOMENTS: tl.constexpr,
    SHARED: tl.constexpr,
    CONSTANT: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_R: tl.constexpr,
    STRIDED: tl.constexpr,
):
    """Compute the gradient of x. With `CONSTANT` all moments are constants, and x, sums and received are not read."""
    p, start, exists = _positions(P, R, K, BLOCK_P, STRIDED)
    donor, known = _donor(p, exists, swap_index, P, per_sample)
    s = tl.load(std + p, mask=exists, other=1.0)
    scale = tl.full([BLOCK_P], 1.0, tl.float32)
    if MOMENTS != "mean":
        scale = _new(std, s, p, exists, donor, known, own_share, per_sample, SHARED) / s
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R).to(tl.int64)
    at = start[:, None] + r[None, :] * K
    inside = exists[:, None] & (r < R)[None, :]
    out = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32) * scale[:, None]
    if not CONSTANT:
        m = tl.load(mean + p, mask=exists, other=0.0)
        total = tl.load(sums + p, mask=exists, other=0.0)
        home, slope = total, tl.zeros([BLOCK_P], tl.float32)
        if MOMENTS != "std":
            home = tl.load(received + p, mask=exists, other=0.0)
        if MOMENTS != "mean":
            along = tl.load(sums + P + p, mask=exists, other=0.0)
            slope = (tl.load(received + P + p, mask=exists, other=0.0) - scale * along) / ((R - 1) * s)
        constant = (home - scale * total) / R
        d = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - m[:, None]
        out += d * slope[:, None] + constant[:, None]
    tl.store(grad_x + at, out.to(grad_x.dtype.element_ty), mask=inside)


class _Plan:
    """Sizes, tiles and grids for a dense tensor of rows of (R, K) elements."""

    def __init__(self, rows: int, R: int, K: int, batch_size: int):
        self.R, self.K, self.P = R, K, rows * K
        self.per_sample = self.P // max(1, batch_size)
        if K > 1:  # the inner axis is the contiguous one: wide in positions
            block_p = min(128, triton.next_power_of_2(K))
            block_r = min(_TILE // block_p, triton.next_power_of_2(R))
            blocks = rows * triton.cdiv(K, block_p)
        else:
            block_r = min(1024, triton.next_power_of_2(R))
            block_p = max(1, min(_TILE // block_r, triton.next_power_of_2(self.P)))
            blocks = triton.cdiv(self.P, block_p)
        self.tile = {"BLOCK_P": block_p, "BLOCK_R": block_r, "STRIDED": K > 1}
        self.reduce_grid = (blocks,)
        self.map_grid = (blocks, triton.cdiv(R, block_r))


def _rows(shape: torch.Size, strides: tuple[int, ...], dims: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Return rows, R and K of a tensor; None if it is not dense or the reduced axes are not adjacent."""
    order = (0, *sorted(range(1, len(shape)), key=lambda d: -strides[d]))
    expected = 1
    for d in reversed(order):
        if shape[d] > 1 and strides[d] != expected:
            return None
        expected *= shape[d]
    long = [d for d in order[1:] if shape[d] != 1]
    match = re.fullmatch(r"(k*)(r*)(k*)", "".join("r" if d in dims else "k" for d in long))
    if match is None:
        return None
    sizes = [shape[d] for d in long]
    outer, reduced, inner = sizes[: match.end(1)], sizes[match.end(1) : match.end(2)], sizes[match.end(2) :]
    return shape[0] * math.prod(outer), math.prod(reduced), math.prod(inner)


@lru_cache(1024)
def _plan(shape: torch.Size, strides: tuple[int, ...], dims: tuple[int, ...]) -> _Plan | None:
    """Return the plan for this shape and these strides; None if the kernels do not support the layout."""
    rows = _rows(shape, strides, dims)
    return None if rows is None else _Plan(*rows, shape[0])


def _forward(
    x: Tensor, swap_index: Tensor, own_share: Tensor | None, dims: Sequence[int], eps: float, moments: str, detach: str
) -> tuple[Tensor, Tensor]:
    """Return y and the moments, (2, P) float32: means, then standard deviations, in x's memory order."""
    plan = _plan(x.shape, x.stride(), tuple(dims))
    assert plan is not None, "moment_exchange_triton passes only layouts that have a plan"
    y = torch.empty_like(x)
    mean_std = torch.empty(2, plan.P, dtype=torch.float32, device=x.device)
    if x.numel():
        with torch.cuda.device_of(x):
            mean, std = mean_std
            _moments[plan.reduce_grid](x, mean, std, plan.P, plan.R, plan.K, eps, **plan.tile)
            _exchange[plan.map_grid](
                x,
                y,
                mean,
                std,
                swap_index,
                own_share,
                plan.P,
                plan.R,
                plan.K,
                plan.per_sample,
                moments,
                own_share is not None,
                **plan.tile,
            )
    return y, mean_std


def _backward(
    grad: Tensor,
    x: Tensor,
    mean_std: Tensor,
    swap_index: Tensor,
    own_share: Tensor | None,
    dims: Sequence[int],
    moments: str,
    detach: str,
) -> Tensor:
    plan = _plan(x.shape, x.stride(), tuple(dims))
    assert plan is not None
    grad_x = torch.empty_like(x)
    if grad.stride() != x.stride():
        grad = torch.empty_like(x).copy_(grad)
    if x.numel():
        sums = received = None
        with torch.cuda.device_of(x):
            mean, std = mean_std
            if detach != "both":
                sums = torch.empty(2, x.shape[0], plan.per_sample, dtype=torch.float32, device=x.device)
                _sums[plan.reduce_grid](x, grad, mean, std, sums, plan.P, plan.R, plan.K, **plan.tile)
                received = _received(sums, swap_index, own_share, detach)
            _grad[plan.map_grid](
                x,
                grad,
                grad_x,
                mean,
                std,
                sums,
                received,
                swap_index,
                own_share,
                plan.P,
                plan.R,
                plan.K,
                plan.per_sample,
                moments,
                own_share is not None,
                detach == "both",
                **plan.tile,
            )
    return grad_x


def _received(sums: Tensor, swap_index: Tensor, own_share: Tensor | None, detach: str) -> Tensor:
    """Sum the gradients that reach each sample's moments from all samples that use them, (2, B, per sample)."""
    share = None if own_share is None else own_share[:, None]
    own = torch.zeros_like(sums) if share is None else share * sums
    if detach == "donor":
        return own
    return own.index_add_(1, swap_index, sums if share is None else (1 - share) * sums)


_NO_GRADIENTS = (None,) * 6  # for all inputs except the features


def _setup_context(ctx, inputs, output):
    x, swap_index, own_share, ctx.dims, ctx.eps, ctx.moments, ctx.detach = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, output[1], swap_index, own_share)


def _differentiate(ctx, grad: Tensor, backward: Callable[..., Tensor]) -> tuple:
    x, mean_std, swap_index, own_share = ctx.saved_tensors
    dims, eps, moments, detach = ctx.dims, ctx.eps, ctx.moments, ctx.detach
    if torch.is_grad_enabled():  # a differentiable gradient is requested (create_graph)
        formula = Formula(dims, eps, False, moments, detach)
        pull_back = torch.func.vjp(lambda features: moment_exchange_ref(features, swap_index, own_share, formula), x)[1]
        return *pull_back(grad), *_NO_GRADIENTS
    return backward(grad, x, mean_std, swap_index, own_share, dims, moments, detach), *_NO_GRADIENTS


class _Eager(torch.autograd.Function):
    """The kernels in eager mode, with less than half the overhead of an operator.

    A separate `setup_context` would double this overhead: PyTorch would then bind the arguments with `inspect`.
    """

    @staticmethod
    def forward(ctx, *inputs):
        ctx.set_materialize_grads(False)  # the moments' gradient is unused, so allocate no zeros for it
        output = _forward(*inputs)
        _setup_context(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx, grad, _):
        return _differentiate(ctx, grad, _backward)


# The kernels as operators, for compiled graphs
_forward_op = torch.library.custom_op("timm_moex::exchange", _forward, mutates_args=())
_backward_op = torch.library.custom_op("timm_moex::exchange_backward", _backward, mutates_args=())


@_forward_op.register_fake
def _(x, swap_index, own_share, dims, eps, moments, detach):
    positions = math.prod([size for d, size in enumerate(x.shape) if d not in dims])
    return torch.empty_like(x), x.new_empty(2, positions, dtype=torch.float32)


@_backward_op.register_fake
def _(grad, x, mean_std, swap_index, own_share, dims, moments, detach):
    return torch.empty_like(x)


_forward_op.register_autograd(
    lambda ctx, grad, _: _differentiate(ctx, grad, _backward_op), setup_context=_setup_context
)


def moment_exchange_triton(x: Tensor, swap_index: Tensor, own_share: Tensor | None, formula: Formula) -> Tensor:
    """Compute `moment_exchange_ref` on a CUDA device; arguments and result are the same.

    A tensor whose layout the kernels do not support (not dense, or channels-last with `gn`) is copied to one they do.
    A differentiable gradient (`create_graph=True`) is computed by `moment_exchange_ref`.

    Raises:
        ValueError: `positive_only` is set, the dtype is not float32, float16 or bfloat16, or `x` is not on a CUDA
            device.
    """
    dims, eps, positive_only, moments, detach = formula
    if positive_only:
        raise ValueError("backend='triton' does not support positive_only=True; use backend='closed_form'")
    if x.dtype not in TRITON_DTYPES:
        raise ValueError(
            f"backend='triton' supports float32, float16 and bfloat16, got {x.dtype}; use backend='closed_form'"
        )
    if x.device.type != "cuda" and not _INTERPRETED:
        raise ValueError(f"backend='triton' needs a CUDA device, but x is on {x.device}; use backend='closed_form'")
    swap_index = swap_index.contiguous()
    if own_share is not None:
        own_share = own_share.float().contiguous()
    in_graph = torch.compiler.is_compiling() or not is_plain(x)
    exchange = _forward_op if in_graph else _Eager.apply
    layout_of = _rows if in_graph else _plan  # Dynamo cannot trace the cache
    if layout_of(x.shape, x.stride(), dims) is not None:
        return exchange(x, swap_index, own_share, dims, eps, moments, detach)[0]
    order = [d for d in range(x.ndim) if d not in dims] + list(dims)
    moved = tuple(range(x.ndim - len(dims), x.ndim))
    y = exchange(x.permute(order).contiguous(), swap_index, own_share, moved, eps, moments, detach)[0]
    return y.permute([order.index(d) for d in range(x.ndim)])
