"""Moment Exchange in Triton, the same closed form as closed_form.py in four kernels; the only file that imports triton.

A tensor is seen as rows of (R, K) elements lying one after the other, moments running over R: R is contiguous for `in`
over NCHW and `pono` over channels_last, and strided (K > 1) the other way round. A position is one place of a moment:
position p belongs to row p // K. Forward: `_moments` and `_exchange`; backward: `_sums` and `_grad`, with an
`index_add` between them that brings what each donor's moments did elsewhere. Offsets are 64 bits wide throughout.
"""

import os
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._layout import dense_layout
from .arguments import TRITON_DTYPES
from .reference import moment_exchange_ref

# Triton decides at import, too: kernels defined under this variable run on the CPU, in NumPy.
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
_TILE = 4096  # elements of x a program holds at a time


@triton.jit
def _positions(P, R, K, BLOCK_P: tl.constexpr, STRIDED: tl.constexpr):
    """This program's positions, where their elements start in x, and which of them exist."""
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
    """Each position's donor and whether there is one: an index out of range reads nothing and gives NaN."""
    sample = p // per_sample
    donor = tl.load(swap_index + sample, mask=exists, other=0)
    return p + (donor - sample) * per_sample, exists & (donor >= 0) & (donor < P // per_sample)


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
    x, y, mean, std, swap_index, P, R, K, per_sample,
    MOMENTS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_R: tl.constexpr, STRIDED: tl.constexpr,
):  # fmt: skip
    p, start, exists = _positions(P, R, K, BLOCK_P, STRIDED)
    donor, known = _donor(p, exists, swap_index, P, per_sample)
    m = tl.load(mean + p, mask=exists, other=0.0)
    new_mean, scale = m, tl.full([BLOCK_P], 1.0, tl.float32)
    if MOMENTS != "std":
        new_mean = tl.load(mean + donor, mask=known, other=float("nan"))
    if MOMENTS != "mean":
        scale = tl.load(std + donor, mask=known, other=float("nan")) / tl.load(std + p, mask=exists, other=1.0)
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R).to(tl.int64)
    at = start[:, None] + r[None, :] * K
    inside = exists[:, None] & (r < R)[None, :]
    d = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - m[:, None]
    tl.store(y + at, (d * scale[:, None] + new_mean[:, None]).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _sums(x, grad, mean, std, sums, P, R, K, BLOCK_P: tl.constexpr, BLOCK_R: tl.constexpr, STRIDED: tl.constexpr):
    """sum(grad), then sum(grad * (x - mean)) / std."""
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
    x, grad, grad_x, mean, std, sums, donated, swap_index, P, R, K, per_sample,
    MOMENTS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_R: tl.constexpr, STRIDED: tl.constexpr,
):  # fmt: skip
    p, start, exists = _positions(P, R, K, BLOCK_P, STRIDED)
    donor, known = _donor(p, exists, swap_index, P, per_sample)
    m = tl.load(mean + p, mask=exists, other=0.0)
    s = tl.load(std + p, mask=exists, other=1.0)
    total = tl.load(sums + p, mask=exists, other=0.0)
    home, scale, slope = total, tl.full([BLOCK_P], 1.0, tl.float32), tl.zeros([BLOCK_P], tl.float32)
    if MOMENTS != "std":
        home = tl.load(donated + p, mask=exists, other=0.0)
    if MOMENTS != "mean":
        scale = tl.load(std + donor, mask=known, other=float("nan")) / s
        along = tl.load(sums + P + p, mask=exists, other=0.0)
        slope = (tl.load(donated + P + p, mask=exists, other=0.0) - scale * along) / ((R - 1) * s)
    constant = (home - scale * total) / R
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R).to(tl.int64)
    at = start[:, None] + r[None, :] * K
    inside = exists[:, None] & (r < R)[None, :]
    d = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - m[:, None]
    g = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
    out = g * scale[:, None] + d * slope[:, None] + constant[:, None]
    tl.store(grad_x + at, out.to(grad_x.dtype.element_ty), mask=inside)


class _Plan:
    """Sizes, tiles and grids for a dense tensor."""

    def __init__(self, x: Tensor, dims: Sequence[int]):
        layout = dense_layout(x, tuple(dims))
        assert layout is not None, "moment_exchange_triton refuses what is not dense"
        self.R, self.K = layout.reduced, layout.inner
        self.P = layout.rows * layout.inner
        self.per_sample = self.P // max(1, x.shape[0])
        strided = layout.inner > 1
        if strided:  # the inner axis is the contiguous one: wide in positions
            block_p = min(128, triton.next_power_of_2(self.K))
            block_r = min(_TILE // block_p, triton.next_power_of_2(self.R))
            blocks = layout.rows * triton.cdiv(self.K, block_p)
        else:
            block_r = min(1024, triton.next_power_of_2(self.R))
            block_p = max(1, min(_TILE // block_r, triton.next_power_of_2(self.P)))
            blocks = triton.cdiv(self.P, block_p)
        self.tile = {"BLOCK_P": block_p, "BLOCK_R": block_r, "STRIDED": strided}
        self.reduce_grid = (blocks,)
        self.map_grid = (blocks, triton.cdiv(self.R, block_r))


@torch.library.custom_op("timm_moex::exchange", mutates_args=())
def _forward(x: Tensor, swap_index: Tensor, dims: list[int], eps: float, moments: str) -> tuple[Tensor, Tensor]:
    """Returns y and the moments, (2, P) float32: means, then standard deviations, in the order of x's memory."""
    plan = _Plan(x, dims)
    y = torch.empty_like(x)
    mean_std = torch.empty(2, plan.P, dtype=torch.float32, device=x.device)
    if x.numel():
        with torch.cuda.device_of(x):
            _moments[plan.reduce_grid](x, *mean_std, plan.P, plan.R, plan.K, eps, **plan.tile)
            _exchange[plan.map_grid](
                x, y, *mean_std, swap_index, plan.P, plan.R, plan.K, plan.per_sample, moments, **plan.tile
            )
    return y, mean_std


@torch.library.custom_op("timm_moex::exchange_backward", mutates_args=())
def _backward(grad: Tensor, x: Tensor, mean_std: Tensor, swap_index: Tensor, dims: list[int], moments: str) -> Tensor:
    plan = _Plan(x, dims)
    grad_x = torch.empty_like(x)
    if grad.stride() != x.stride():
        grad = torch.empty_like(x).copy_(grad)
    if x.numel():
        sums = torch.empty(2, x.shape[0], plan.per_sample, dtype=torch.float32, device=x.device)
        with torch.cuda.device_of(x):
            _sums[plan.reduce_grid](x, grad, *mean_std, sums, plan.P, plan.R, plan.K, **plan.tile)
            donated = torch.zeros_like(sums).index_add_(1, swap_index, sums)
            _grad[plan.map_grid](
                x, grad, grad_x, *mean_std, sums, donated, swap_index, plan.P, plan.R, plan.K, plan.per_sample, moments,
                **plan.tile,
            )  # fmt: skip
    return grad_x


@_forward.register_fake
def _(x, swap_index, dims, eps, moments):
    positions = 1
    for d, size in enumerate(x.shape):
        positions *= 1 if d in dims else size
    return torch.empty_like(x), x.new_empty(2, positions, dtype=torch.float32)


@_backward.register_fake
def _(grad, x, mean_std, swap_index, dims, moments):
    return torch.empty_like(x)


def _setup_context(ctx, inputs, output):
    x, swap_index, ctx.dims, ctx.eps, ctx.moments = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, output[1], swap_index)


def _autograd(ctx, grad, _):
    x, mean_std, swap_index = ctx.saved_tensors
    if torch.is_grad_enabled():  # someone asks for a differentiable gradient (create_graph)
        pull_back = torch.func.vjp(
            lambda features: moment_exchange_ref(features, swap_index, ctx.dims, ctx.eps, False, ctx.moments), x
        )[1]
        return *pull_back(grad), None, None, None, None
    return _backward(grad, x, mean_std, swap_index, ctx.dims, ctx.moments), None, None, None, None


_forward.register_autograd(_autograd, setup_context=_setup_context)


def moment_exchange_triton(
    x: Tensor,
    swap_index: Tensor,
    dims: tuple[int, ...],
    eps: float = 1e-5,
    positive_only: bool = False,
    moments: str = "both",
    own_share: Tensor | None = None,
    detach: str = "none",
) -> Tensor:
    """`moment_exchange_ref` on a CUDA device; arguments and result are the same.

    A tensor whose layout the kernels do not know (not dense, or channels-last with `gn`) is copied into one they do.
    A differentiable gradient (`create_graph=True`) is taken through `moment_exchange_ref`.

    Raises:
        ValueError: `positive_only`, `own_share`, `detach`, a dtype other than float32, float16 and bfloat16, or `x` not
            on a CUDA device.
    """
    if positive_only:
        raise ValueError("backend='triton' has no positive_only; use backend='closed_form'")
    if own_share is not None or detach != "none":
        raise ValueError(f"backend='triton' has no own_share and detach={detach!r}; use backend='closed_form'")
    if x.dtype not in TRITON_DTYPES:
        raise ValueError(
            f"backend='triton' takes float32, float16 and bfloat16, got {x.dtype}; use backend='closed_form'"
        )
    if x.device.type != "cuda" and not _INTERPRETED:
        raise ValueError(f"backend='triton' runs on CUDA devices, x is on {x.device}; use backend='closed_form'")
    if dense_layout(x, dims):
        return _forward(x, swap_index, list(dims), eps, moments)[0]
    order = [d for d in range(x.ndim) if d not in dims] + list(dims)
    moved = list(range(x.ndim - len(dims), x.ndim))
    y = _forward(x.permute(order).contiguous(), swap_index, moved, eps, moments)[0]
    return y.permute([order.index(d) for d in range(x.ndim)])
