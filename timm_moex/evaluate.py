"""Top-1, top-5 and loss of a model, exact over every sample."""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["evaluate"]


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    device: torch.device | str,
    *,
    amp_dtype: torch.dtype | None = None,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
) -> dict[str, Any]:
    """Evaluate a classifier. Counts, not averages of averages: a short last batch weighs what it should.

    Args:
        model: Maps images (B, C, H, W) to logits (B, classes); left in eval mode.
        loader: Yields images and class indices (B,), every sample once.
        device: Where the model is.
        amp_dtype: Type for autocast; None for none.
        dtype: Type of the images; None leaves the loader's.
        channels_last: Whether the images are given in that memory format.

    Returns:
        `loss` (mean cross-entropy), `top1` and `top5` in percent (of fewer than 5 classes: over all), `count`.

    Raises:
        ValueError: The loader is empty.
    """
    device = torch.device(device)
    autocast = nullcontext() if amp_dtype is None else torch.autocast(device.type, dtype=amp_dtype)
    memory_format = torch.channels_last if channels_last else torch.preserve_format
    model.eval()
    losses, hits1, hits5, count = [], [], [], 0
    for images, target in loader:
        images = images.to(device=device, dtype=dtype, memory_format=memory_format)
        target = target.to(device)
        with autocast:
            output = model(images)
        hit = output.topk(min(5, output.shape[1]), dim=1).indices == target[:, None]  # (B, 5)
        losses.append(F.cross_entropy(output.float(), target, reduction="sum"))
        hits1.append(hit[:, 0].sum())
        hits5.append(hit.sum())
        count += len(target)
    if not count:
        raise ValueError("loader: no samples to evaluate")
    loss, top1, top5 = (torch.stack(parts).cpu().double().sum().item() for parts in (losses, hits1, hits5))
    return {"loss": loss / count, "top1": 100 * top1 / count, "top5": 100 * top5 / count, "count": count}
