"""Moment Exchange with a closed-form backward: it keeps the features and their moments, nothing else.

With d = x - mean, a = new_std / std, n the number of elements under a moment and n' = n - 1 (n with `positive_only`,
whose variance is biased), the forward is y = a * d + new_mean. Every element reaches the loss in three ways: directly,
through the moments of its own sample, and through the moments that its sample donated. With S = sum(grad) and
T = sum(grad * d) / std over the axes of the moments,

    grad_x = a * grad + (D_std - a * T) / (n' * std) * d + (D_mean - a * S) / n

where D_mean and D_std add up the S and the T of all samples the donor gave to (`index_add`: a donor may be asked twice
or never). Where a moment is not exchanged, a sample's own sum takes the place of the donated ones. A new moment that is
a sample's own by a share l, and the donor's by 1 - l, sends l S to itself and (1 - l) S to the donor. What goes to a
moment that counts as constant is left out; where all of them do, grad_x = a * grad.

Three passes over the features do it all: `_moments`, `_sums` and `_combine` (forward and backward). On a CPU they run
block by block, so that a block stays in the cache between operators; for large dense tensors the last two are one fused
operator per block (see _dense.py). On other devices and under torch.compile they are whole-tensor operators.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import _dense
from .reference import moment_exchange_ref

# Where Tensor.var over a strided axis costs twenty copies of the tensor, a sum of squares takes its place.
_SLOW_VAR = {"cpu"}
# Elements of a block per thread: a float32 block, and one temporary beside it, stay in a core's level 2 cache.
_BLOCK = 2**17


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype.itemsize >= 4 else x.float()


def _blocks(x: Tensor, *tensors: Tensor) -> zip:
    """Walk `x` (B, ...) and tensors of the same B: at once on an accelerator and in a graph, on a CPU by cache-fuls."""
    size = max(1, x.shape[0])
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        size = max(1, _BLOCK * torch.get_num_threads() // max(1, math.prod(x.shape[1:])))
    return zip(*[tensor.split(size) for tensor in (x, *tensors)])


def _moments(x: Tensor, dims: tuple[int, ...], positive_only: bool) -> tuple[Tensor, Tensor]:
    means, variances = [], []
    for (features,) in _blocks(x):
        features = _wide(features)
        if positive_only:
            positive = features > 0
            count = positive.sum(dims, keepdim=True).clamp_(min=1)
            mean = features.relu().sum(dims, keepdim=True) / count
            var = (features - mean).square_().mul_(positive).sum(dims, keepdim=True).div_(count)
        elif x.device.type in _SLOW_VAR:
            size = math.prod([x.shape[d] for d in dims])
            mean = features.sum(dims, keepdim=True).div_(size)
            centred = features - mean
            var = (centred * centred).sum(dims, keepdim=True).div_(size - 1)
        else:
            var, mean = torch.var_mean(features, dims, correction=1, keepdim=True)
        means.append(mean)
        variances.append(var)
    return torch.cat(means), torch.cat(variances)


def _sums(x: Tensor, grad: Tensor, mean: Tensor, dims: tuple[int, ...], positive_only: bool) -> tuple[Tensor, Tensor]:
    """sum(grad) and sum(grad * (x - mean))."""
    if not positive_only and (layout := _dense.layout(x, dims)):
        return _dense.sums(x, grad, mean, layout)
    totals, alongs = [], []
    for features, g, m in _blocks(x, grad, mean):
        g = _wide(g)
        totals.append(g.sum(dims, keepdim=True))
        alongs.append((_wide(features) - m).mul_(g).sum(dims, keepdim=True))
    return torch.cat(totals), torch.cat(alongs)


def _add_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    if torch.compiler.is_compiling():  # dynamo refuses an `out` that is not contiguous, such as a ViT's patch tokens
        out.copy_(a + b)
    else:
        torch.add(a, b, out=out)


def _combine(x: Tensor, mean: Tensor, a: Tensor, b: Tensor, dims: tuple[int, ...]) -> Tensor:
    """(x - mean) * a + b. Centred first: x * a + (b - mean * a) would cancel where |mean| >> std."""
    if layout := _dense.layout(x, dims):
        return _dense.combine(x, mean, a, b, layout)
    y = torch.empty_like(x)
    for features, out, m, slope, constant in _blocks(x, y, mean, a, b):
        _add_into(out, (_wide(features) - m).mul_(slope), constant)
    return y


def _combine_grad(
    x: Tensor, grad: Tensor, mean: Tensor, a: Tensor, b: Tensor, c: Tensor, dims: tuple[int, ...], positive_only: bool
) -> Tensor:
    """(x - mean) * a + b + grad * c; with `positive_only` the moments, hence a and b, know the positive x alone."""
    if not positive_only and (layout := _dense.layout(x, dims)):
        return _dense.combine(x, mean, a, b, layout, grad, c)
    grad_x = torch.empty_like(x)
    for features, out, g, m, slope, constant, direct in _blocks(x, grad_x, grad, mean, a, b, c):
        through_moments = (_wide(features) - m).mul_(slope).add_(constant)
        if positive_only:
            through_moments.mul_(features > 0)
        _add_into(out, through_moments, _wide(g) * direct)
    return grad_x


def _as_moment(own_share: Tensor, moment: Tensor) -> Tensor:
    return own_share.to(moment.dtype).view(-1, *[1] * (moment.ndim - 1))


def _new(moment: Tensor, swap_index: Tensor, own_share: Tensor | None) -> Tensor:
    """What takes the place of a moment: the donor's, or its mixture with the sample's own."""
    if own_share is None:
        return moment[swap_index]
    share = _as_moment(own_share, moment)
    return share * moment + (1 - share) * moment[swap_index]


def _received(sums: Tensor, swap_index: Tensor, own_share: Tensor | None, detach: str) -> Tensor:
    """The gradient that reaches each sample's moment from all samples whose new moment it is a part of."""
    own = torch.zeros_like(sums) if own_share is None else _as_moment(own_share, sums) * sums
    if detach == "donor":
        return own
    return own.index_add(0, swap_index, sums if own_share is None else sums - own)


def _exchange_grad(grad, x, swap_index, own_share, mean, std, dims, positive_only, moments, detach) -> Tensor:
    total, along = _sums(x, grad, mean, dims, positive_only)
    if positive_only:
        n = dof = (x > 0).sum(dims, keepdim=True).clamp_(min=1)
    else:
        n = math.prod([x.shape[d] for d in dims])
        dof = n - 1
    along = along / std
    scale = torch.ones_like(std) if moments == "mean" else _new(std, swap_index, own_share) / std
    received = total if moments == "std" else _received(total, swap_index, own_share, detach)
    constant = (received - scale * total) / n
    if moments == "mean":
        slope = torch.zeros_like(std)
    else:
        slope = (_received(along, swap_index, own_share, detach) - scale * along) / (dof * std)
    return _combine_grad(x, grad, mean, slope, constant, scale, dims, positive_only)


_NO_GRADIENTS = (None,) * 7  # of every input but the features


def _reference(swap_index: Tensor, own_share: Tensor | None, settings: list) -> Callable[[Tensor], Tensor]:
    """Return the formula under autograd, as a function of the features only."""
    dims, eps, positive_only, moments, detach = settings
    return lambda x: moment_exchange_ref(x, swap_index, dims, eps, positive_only, moments, own_share, detach)


class _MomentExchange(torch.autograd.Function):
    @staticmethod
    def forward(x, swap_index, own_share, dims, eps, positive_only, moments, detach):
        mean, var = _moments(x, dims, positive_only)
        std = var.add_(eps).sqrt_()
        scale = torch.ones_like(std) if moments == "mean" else _new(std, swap_index, own_share) / std
        new_mean = mean if moments == "std" else _new(mean, swap_index, own_share)
        return _combine(x, mean, scale, new_mean, dims), mean, std

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, swap_index, own_share, *ctx.settings = inputs
        _, mean, std = output
        ctx.mark_non_differentiable(mean, std)
        ctx.save_for_backward(x, swap_index, own_share, mean, std)
        ctx.save_for_forward(x, swap_index, own_share)

    @staticmethod
    def backward(ctx, grad, *_):
        x, swap_index, own_share, mean, std = ctx.saved_tensors
        dims, eps, positive_only, moments, detach = ctx.settings
        # someone asks for a differentiable gradient (create_graph, torch.func.grad), or for a batch of them
        if torch.is_grad_enabled() or (
            not torch.compiler.is_compiling() and torch._C._functorch.is_legacy_batchedtensor(grad)
        ):
            pull_back = torch.func.vjp(_reference(swap_index, own_share, ctx.settings), x)[1]
            return *pull_back(grad), *_NO_GRADIENTS
        if detach == "both":
            scale = torch.ones_like(std) if moments == "mean" else _new(std, swap_index, own_share) / std
            return (grad * scale).to(grad.dtype), *_NO_GRADIENTS
        grad_x = _exchange_grad(grad, x, swap_index, own_share, mean, std, dims, positive_only, moments, detach)
        return grad_x, *_NO_GRADIENTS

    @staticmethod
    def vmap(info, in_dims, x, swap_index, own_share, *settings):
        """Batches of batches are one batch in which sample i of batch b is sample b * B + i."""
        x = x.movedim(in_dims[0], 0) if in_dims[0] is not None else x.expand(info.batch_size, *x.shape)
        if in_dims[1] is None:
            swap_index = swap_index.expand(info.batch_size, *swap_index.shape)
        else:
            swap_index = swap_index.movedim(in_dims[1], 0)
        if own_share is not None:
            across = in_dims[2] is None
            own_share = own_share.expand(info.batch_size, -1) if across else own_share.movedim(in_dims[2], 0)
            own_share = own_share.flatten()
        first = torch.arange(info.batch_size, device=x.device)[:, None] * x.shape[1]
        outputs = _MomentExchange.apply(x.flatten(0, 1), (swap_index + first).flatten(), own_share, *settings)
        return tuple(out.unflatten(0, x.shape[:2]) for out in outputs), (0, 0, 0)


class _WithForwardMode(_MomentExchange):
    """The same with forward-mode gradients, for which Dynamo has no rule."""

    @staticmethod
    def jvp(ctx, tangent, *_):
        x, swap_index, own_share = ctx.saved_tensors
        formula = _reference(swap_index, own_share, ctx.settings)
        return torch.func.jvp(formula, (x,), (tangent,))[1], None, None


def moment_exchange_closed_form(
    x: Tensor,
    swap_index: Tensor,
    dims: tuple[int, ...],
    eps: float = 1e-5,
    positive_only: bool = False,
    moments: str = "both",
    own_share: Tensor | None = None,
    detach: str = "none",
) -> Tensor:
    """`moment_exchange_ref` with a closed-form backward; arguments and result are the same.

    A differentiable gradient (`create_graph=True`, `torch.func.grad`) is taken through `moment_exchange_ref`.
    """
    function = _MomentExchange if torch.compiler.is_compiling() else _WithForwardMode
    return function.apply(x, swap_index, own_share, dims, eps, positive_only, moments, detach)[0]
