"""Moment Exchange with a closed-form backward that keeps only the features and their moments.

Let d = x - mean, a = new_std / std, n the number of elements per moment, and n' = n - 1 (or n with `positive_only`,
whose variance is biased). The forward is y = a * d + new_mean. Each element reaches the loss in three ways: directly,
through the moments of its own sample, and through the moments that its sample donated. With S = sum(grad) and
T = sum(grad * d) / std over the axes of the moments,

    grad_x = a * grad + (D_std - a * T) / (n' * std) * d + (D_mean - a * S) / n

D_mean and D_std sum the S and T of all samples that received the donor's moments (`index_add`, since a donor may be
used twice or never). A moment that is not exchanged uses the sample's own sum instead. If a new moment mixes a share l
of the sample's own with 1 - l of the donor's, l S goes to the sample and (1 - l) S to the donor. Terms of moments that
are treated as constants are left out; if all moments are, grad_x = a * grad.

There are three kinds of passes over the features: `_moments`, `_sums` and `_combine` (forward and backward). On a
CPU they run block by block, so that a block stays in the cache between operators. On other devices and under
torch.compile they are whole-tensor operators.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .arguments import Formula
from .reference import moment_exchange_ref

# Devices on which Tensor.var over a strided axis takes as long as twenty copies; a sum of squares is used instead.
_SLOW_VAR = {"cpu"}
# Elements per block and thread: a float32 block and one temporary fit into a core's level 2 cache.
_BLOCK = 2**17


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype.itemsize >= 4 else x.float()


def _blocks(x: Tensor, *tensors: Tensor) -> zip:
    """Split `x` (B, ...) and tensors of the same batch size into cache-sized blocks on a CPU, else into one block."""
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


def _sums(x: Tensor, grad: Tensor, mean: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return sum(grad) and sum(grad * (x - mean))."""
    totals, alongs = [], []
    for features, g, m in _blocks(x, grad, mean):
        g = _wide(g)
        totals.append(g.sum(dims, keepdim=True))
        alongs.append((_wide(features) - m).mul_(g).sum(dims, keepdim=True))
    return torch.cat(totals), torch.cat(alongs)


def _add_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    if torch.compiler.is_compiling():  # Dynamo rejects a non-contiguous `out`, such as a ViT's patch tokens
        out.copy_(a + b)
    else:
        torch.add(a, b, out=out)


def _combine(x: Tensor, mean: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return (x - mean) * a + b. Centring first avoids the cancellation in x * a + (b - mean * a) if |mean| >> std."""
    y = torch.empty_like(x)
    for features, out, m, slope, constant in _blocks(x, y, mean, a, b):
        _add_into(out, (_wide(features) - m).mul_(slope), constant)
    return y


def _combine_grad(
    x: Tensor, grad: Tensor, mean: Tensor, a: Tensor, b: Tensor, c: Tensor, positive_only: bool
) -> Tensor:
    """Return (x - mean) * a + b + grad * c; with `positive_only`, a and b apply only to positive x."""
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
    """Return the new moment: the donor's, or its mixture with the sample's own."""
    if own_share is None:
        return moment[swap_index]
    share = _as_moment(own_share, moment)
    return share * moment + (1 - share) * moment[swap_index]


def _scale(std: Tensor, swap_index: Tensor, own_share: Tensor | None, moments: str) -> Tensor:
    return torch.ones_like(std) if moments == "mean" else _new(std, swap_index, own_share) / std


def _received(sums: Tensor, swap_index: Tensor, own_share: Tensor | None, detach: str) -> Tensor:
    """Sum the gradients that reach each sample's moment from all samples that use it."""
    own = torch.zeros_like(sums) if own_share is None else _as_moment(own_share, sums) * sums
    if detach == "donor":
        return own
    return own.index_add(0, swap_index, sums if own_share is None else sums - own)


def _exchange_grad(grad, x, swap_index, own_share, mean, std, formula) -> Tensor:
    dims, _, positive_only, moments, detach = formula
    total, along = _sums(x, grad, mean, dims)
    if positive_only:
        n = dof = (x > 0).sum(dims, keepdim=True).clamp_(min=1)
    else:
        n = math.prod([x.shape[d] for d in dims])
        dof = n - 1
    along = along / std
    scale = _scale(std, swap_index, own_share, moments)
    received = total if moments == "std" else _received(total, swap_index, own_share, detach)
    constant = (received - scale * total) / n
    if moments == "mean":
        slope = torch.zeros_like(std)
    else:
        slope = (_received(along, swap_index, own_share, detach) - scale * along) / (dof * std)
    return _combine_grad(x, grad, mean, slope, constant, scale, positive_only)


_NO_GRADIENTS = (None,) * 3  # for all inputs except the features


def _reference(swap_index: Tensor, own_share: Tensor | None, formula: Formula) -> Callable[[Tensor], Tensor]:
    """Return the reference formula as a function of only the features."""
    return lambda x: moment_exchange_ref(x, swap_index, own_share, formula)


class _MomentExchange(torch.autograd.Function):
    @staticmethod
    def forward(x, swap_index, own_share, formula):
        dims, eps, positive_only, moments, _ = formula
        mean, var = _moments(x, dims, positive_only)
        std = var.add_(eps).sqrt_()
        scale = _scale(std, swap_index, own_share, moments)
        new_mean = mean if moments == "std" else _new(mean, swap_index, own_share)
        return _combine(x, mean, scale, new_mean), mean, std

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, swap_index, own_share, ctx.formula = inputs
        _, mean, std = output
        ctx.mark_non_differentiable(mean, std)
        ctx.save_for_backward(x, swap_index, own_share, mean, std)
        ctx.save_for_forward(x, swap_index, own_share)

    @staticmethod
    def backward(ctx, grad, *_):
        x, swap_index, own_share, mean, std = ctx.saved_tensors
        # a differentiable gradient (create_graph, torch.func.grad) or a batch of gradients is requested
        if torch.is_grad_enabled() or (
            not torch.compiler.is_compiling() and torch._C._functorch.is_legacy_batchedtensor(grad)
        ):
            pull_back = torch.func.vjp(_reference(swap_index, own_share, ctx.formula), x)[1]
            return *pull_back(grad), *_NO_GRADIENTS
        if ctx.formula.detach == "both":
            scale = _scale(std, swap_index, own_share, ctx.formula.moments)
            return (grad * scale).to(grad.dtype), *_NO_GRADIENTS
        grad_x = _exchange_grad(grad, x, swap_index, own_share, mean, std, ctx.formula)
        return grad_x, *_NO_GRADIENTS

    @staticmethod
    def vmap(info, in_dims, x, swap_index, own_share, formula):
        """Flatten the batches into one, in which sample i of batch b is sample b * B + i."""

        def batched(tensor, dim):
            return tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)

        x = batched(x, in_dims[0])
        swap_index = batched(swap_index, in_dims[1])
        own_share = None if own_share is None else batched(own_share, in_dims[2]).flatten()
        first = torch.arange(info.batch_size, device=x.device)[:, None] * x.shape[1]
        outputs = _MomentExchange.apply(x.flatten(0, 1), (swap_index + first).flatten(), own_share, formula)
        return tuple(out.unflatten(0, x.shape[:2]) for out in outputs), (0, 0, 0)


class _WithForwardMode(_MomentExchange):
    """`_MomentExchange` with forward-mode gradients, which Dynamo does not support."""

    @staticmethod
    def jvp(ctx, tangent, *_):
        x, swap_index, own_share = ctx.saved_tensors
        formula = _reference(swap_index, own_share, ctx.formula)
        return torch.func.jvp(formula, (x,), (tangent,))[1], None, None


def moment_exchange_closed_form(x: Tensor, swap_index: Tensor, own_share: Tensor | None, formula: Formula) -> Tensor:
    """Compute `moment_exchange_ref` with a closed-form backward; arguments and result are the same.

    Differentiable gradients (`create_graph=True`, `torch.func.grad`), batches of gradients and forward-mode gradients
    are computed by `moment_exchange_ref`.
    """
    function = _MomentExchange if torch.compiler.is_compiling() else _WithForwardMode
    return function.apply(x, swap_index, own_share, formula)[0]
