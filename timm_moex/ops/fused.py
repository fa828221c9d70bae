"""Moment Exchange with a closed-form backward: it keeps the features and their moments, nothing else.

With d = x - mean, a = new_std / std, n the number of elements under a moment and n' = n - 1 (n with `positive_only`,
whose variance is biased), the forward is y = a * d + new_mean. Every element reaches the loss on three ways: directly,
through the moments of its own sample, and through the moments its sample donated. With S = sum(grad) and
T = sum(grad * d) / std over the axes of the moments,

    grad_x = a * grad + (D_std - a * T) / (n' * std) * d + (D_mean - a * S) / n

where D_mean and D_std add up the S and the T of all samples the donor gave to (`index_add`: a donor may be asked twice
or never). Moments that stay at home keep their own sums in place of the donated ones.
"""

import math

import torch
from torch import Tensor

from .reference import moment_exchange_ref

# Elements of a block per thread: a float32 block, and one temporary beside it, stay in a core's level 2 cache.
_BLOCK = 2**17


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype.itemsize >= 4 else x.float()


def _block_size(x: Tensor) -> int:
    """Samples to work on at a time: all of them on an accelerator and in a graph, as many as fit the cache on a CPU."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return max(1, x.shape[0])
    return max(1, _BLOCK * torch.get_num_threads() // max(1, math.prod(x.shape[1:])))


def _split(size: int, *tensors: Tensor) -> zip:
    return zip(*[tensor.split(size) for tensor in tensors])


def _moments(x: Tensor, dims: tuple[int, ...], eps: float, positive_only: bool) -> tuple[Tensor, Tensor]:
    features = _wide(x)
    if positive_only:
        positive = features > 0
        count = positive.sum(dims, keepdim=True).clamp_(min=1)
        mean = features.relu().sum(dims, keepdim=True) / count
        var = (features - mean).square_().mul_(positive).sum(dims, keepdim=True).div_(count)
    else:
        count = math.prod([x.shape[d] for d in dims])
        mean = features.sum(dims, keepdim=True).div_(count)
        centred = features - mean
        # A sum of squares, not Tensor.var: on a CPU var over a strided axis costs twenty copies of the tensor.
        var = (centred * centred).sum(dims, keepdim=True).div_(count - 1)
    return mean, var.add_(eps).sqrt_()


def _exchange(
    x: Tensor, swap_index: Tensor, dims: tuple[int, ...], eps: float, positive_only: bool, moments: str
) -> tuple[Tensor, Tensor, Tensor]:
    size = _block_size(x)
    blocks = [_moments(block, dims, eps, positive_only) for block in x.split(size)]
    mean, std = torch.cat([mean for mean, _ in blocks]), torch.cat([std for _, std in blocks])
    scale = torch.ones_like(std) if moments == "mean" else std[swap_index] / std
    shift = mean if moments == "std" else mean[swap_index]
    y = torch.empty_like(x)
    for out, block, m, a, b in _split(size, y, x, mean, scale, shift):
        # Centre first: x * a + (new_mean - mean * a) would cancel where |mean| >> std.
        out.copy_((_wide(block) - m).mul_(a).add_(b))
    return y, mean, std


def _gather_back(sums: Tensor, swap_index: Tensor) -> Tensor:
    """Add up, for each donor, the sums of the samples it gave to."""
    return torch.zeros_like(sums).index_add_(0, swap_index, sums)


def _exchange_grad(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    std: Tensor,
    swap_index: Tensor,
    dims: tuple[int, ...],
    positive_only: bool,
    moments: str,
) -> Tensor:
    size = _block_size(x)
    blocks = []
    for g, block, m in _split(size, grad, x, mean):
        g = _wide(g)
        total = g.sum(dims, keepdim=True)
        along = (_wide(block) - m).mul_(g).sum(dims, keepdim=True)
        count = (block > 0).sum(dims, keepdim=True).clamp_(min=1) if positive_only else torch.ones_like(total)
        blocks.append((total, along, count))
    total, along, count = [torch.cat(sums) for sums in zip(*blocks)]
    n = count if positive_only else math.prod([x.shape[d] for d in dims])
    along = along / std
    scale = torch.ones_like(std) if moments == "mean" else std[swap_index] / std
    new_mean = total if moments == "std" else _gather_back(total, swap_index)
    constant = (new_mean - scale * total) / n
    if moments == "mean":
        slope = torch.zeros_like(std)
    else:
        slope = (_gather_back(along, swap_index) - scale * along) / std / (n if positive_only else n - 1)
    grad_x = torch.empty_like(x)
    for out, g, block, m, a, b, c in _split(size, grad_x, grad, x, mean, scale, slope, constant):
        through_moments = (_wide(block) - m).mul_(b).add_(c)
        if positive_only:
            through_moments.mul_(block > 0)
        out.copy_(through_moments.add_(_wide(g) * a))
    return grad_x


class _MomentExchange(torch.autograd.Function):
    @staticmethod
    def forward(x, swap_index, dims, eps, positive_only, moments):
        return _exchange(x, swap_index, dims, eps, positive_only, moments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, swap_index, *ctx.settings = inputs
        _, mean, std = output
        ctx.mark_non_differentiable(mean, std)
        ctx.save_for_backward(x, swap_index, mean, std)

    @staticmethod
    def backward(ctx, grad, *_):
        x, swap_index, mean, std = ctx.saved_tensors
        dims, eps, positive_only, moments = ctx.settings
        if torch.is_grad_enabled():  # someone asks for a differentiable gradient (create_graph, torch.func.grad)
            _, pull_back = torch.func.vjp(
                lambda features: moment_exchange_ref(features, swap_index, dims, eps, positive_only, moments), x
            )
            return *pull_back(grad), None, None, None, None, None
        grad_x = _exchange_grad(grad, x, mean, std, swap_index, dims, positive_only, moments)
        return grad_x, None, None, None, None, None

    @staticmethod
    def vmap(info, in_dims, x, swap_index, dims, eps, positive_only, moments):
        """Batches of batches are one batch in which sample i of batch b is sample b * B + i."""
        x = x.movedim(in_dims[0], 0) if in_dims[0] is not None else x.expand(info.batch_size, *x.shape)
        if in_dims[1] is None:
            swap_index = swap_index.expand(info.batch_size, *swap_index.shape)
        else:
            swap_index = swap_index.movedim(in_dims[1], 0)
        first = torch.arange(info.batch_size, device=x.device)[:, None] * x.shape[1]
        outputs = _MomentExchange.apply(
            x.flatten(0, 1), (swap_index + first).flatten(), dims, eps, positive_only, moments
        )
        return tuple(out.unflatten(0, x.shape[:2]) for out in outputs), (0, 0, 0)


def moment_exchange_fused(
    x: Tensor,
    swap_index: Tensor,
    dims: tuple[int, ...],
    eps: float = 1e-5,
    positive_only: bool = False,
    moments: str = "both",
) -> Tensor:
    """`moment_exchange_ref` with a closed-form backward; arguments and result are the same.

    A differentiable gradient (`create_graph=True`, `torch.func.grad`) is taken through `moment_exchange_ref`.
    """
    return _MomentExchange.apply(x, swap_index, dims, eps, positive_only, moments)[0]
