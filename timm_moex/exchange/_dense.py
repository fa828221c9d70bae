"""Two passes of the closed form over large dense CPU tensors, each by one fused PyTorch operator per block.

A chain of elementwise operators and reductions reads its block again and again. PyTorch's batch normalisation has both
passes as one vectorised loop: in evaluation `(x - mean) * scale + shift` per channel, and in its backward sum(grad) and
sum(grad * (x - mean)). So each moment becomes a "channel" of a batch norm: where the reduced axis is contiguous, all
moments at once, as channels of one image; elsewhere row by row, as columns of a matrix. Its statistics do not serve:
over a strided axis they add up a mean one element after the other, which loses digits where |mean| >> std.

Low precision is widened to float32 block by block, while the block is in the cache.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ._layout import Layout, dense_layout

__all__ = ["combine", "layout", "sums"]

# Elements, in all and in a row, from which a fused pass is quicker than the chain of operators.
MIN_NUMEL = 2**16
MIN_ROW = 2**16
# Elements of a block per thread: a float32 block, and one temporary of its size, stay in a core's level 2 cache.
_BLOCK = 2**17


def layout(x: Tensor, dims: tuple[int, ...]) -> Layout | None:
    """How the passes see `x` with moments over `dims`; None where they cannot or need not work on it."""
    # Compilers fuse the plain operators themselves; tracers and tensor subclasses must see them, too. `type` because a
    # subclass passes isinstance.
    if torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter) or torch.jit.is_tracing():
        return None
    if x.device.type != "cpu" or x.dtype == torch.float16 or x.numel() < MIN_NUMEL:
        return None
    found = dense_layout(x, dims)
    if found is None or (found.inner > 1 and found.reduced * found.inner < MIN_ROW):
        return None
    return found


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype.itemsize >= 4 else x.float()


def _images(layout: Layout, *tensors: Tensor) -> Iterator[tuple[list[Tensor], slice]]:
    """Walk tensors of the features' layout as images (samples, moments, elements) whose "channels" are the moments.

    Yields for each block the images, and the slice of the flat moments that they belong to.
    """
    flat = [tensor.permute(layout.order).reshape(layout.rows, layout.reduced, layout.inner) for tensor in tensors]
    if layout.inner == 1:
        step = max(1, _BLOCK * torch.get_num_threads() // layout.reduced)
        for start in range(0, layout.rows, step):
            at = slice(start, start + step)
            yield [tensor[at].view(1, -1, layout.reduced) for tensor in flat], at
    else:
        for row in range(layout.rows):
            yield [tensor[row] for tensor in flat], slice(row * layout.inner, (row + 1) * layout.inner)


def _flat(moment: Tensor, layout: Layout) -> Tensor:
    return moment.permute(layout.order).reshape(-1)


def _unflat(flat: Tensor, layout: Layout) -> Tensor:
    back = sorted(range(len(layout.order)), key=lambda d: layout.order[d])
    return flat.view(layout.shape).permute(back)


def _empty_moments(x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    first, second = torch.empty(2, layout.rows * layout.inner, dtype=dtype).unbind()
    return first, second


def sums(x: Tensor, grad: Tensor, mean: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """sum(grad) and sum(grad * (x - mean)), in the shape of the moments with kept axes."""
    total, along = _empty_moments(x, layout)
    mean = _flat(mean, layout)
    ones = torch.ones_like(mean)
    for (image, image_grad), at in _images(layout, x, _laid_out_as(x, grad)):
        if layout.inner == 1:  # where batch norm is slow in low precision; along columns it sums in float32 by itself
            image, image_grad = _wide(image), _wide(image_grad)
        weight = invstd = ones[at]  # with an inverse std of 1 the gradients of weight and bias are the sums
        _, along[at], total[at] = torch.ops.aten.native_batch_norm_backward(
            image_grad, image, weight, None, None, mean[at], invstd, True, 0.0, [False, True, True]
        )
    return _unflat(total, layout), _unflat(along, layout)


def combine(
    x: Tensor, mean: Tensor, a: Tensor, b: Tensor, layout: Layout, grad: Tensor | None = None, c: Tensor | None = None
) -> Tensor:
    """(x - mean) * a + b, and + grad * c where there is a grad; rounded to the type of `x` once, at the end."""
    y = torch.empty_like(x)
    mean, a, b = (_flat(moment, layout) for moment in (mean, a, b))
    ones = torch.ones_like(mean)
    grads = () if grad is None else (_laid_out_as(x, grad),)
    direct = None if c is None else _flat(c, layout)
    for (image, out, *image_grads), at in _images(layout, x, y, *grads):
        moments = (a[at], b[at], mean[at], ones[at])
        if direct is None:
            _scale_and_shift(image, *moments, out)
            continue
        wide = out if out.dtype == mean.dtype else torch.empty_like(out, dtype=mean.dtype)
        _scale_and_shift(_wide(image), *moments, wide)
        wide.addcmul_(_wide(image_grads[0]), direct[at].view((-1, 1) if layout.inner == 1 else (1, -1)))
        if wide is not out:
            out.copy_(wide)
    return y


def _scale_and_shift(image: Tensor, a: Tensor, b: Tensor, mean: Tensor, var: Tensor, out: Tensor) -> None:
    """Batch norm as in evaluation: (image - mean) / sqrt(var) * a + b, for each "channel"."""
    unused = mean.new_empty(0)
    torch.ops.aten.native_batch_norm.out(
        image, a, b, mean, var, False, 0.0, 0.0, out=out, save_mean=unused, save_invstd=unused
    )


def _laid_out_as(x: Tensor, grad: Tensor) -> Tensor:
    return grad if grad.stride() == x.stride() else torch.empty_like(x).copy_(grad)
