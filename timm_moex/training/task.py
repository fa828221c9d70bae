"""The loss of MoEx and the training task that draws, exchanges and mixes, once per step."""

import logging
from collections.abc import Callable

import torch
from timm.task import ClassificationTask
from torch import Tensor, nn

from ..insertion.insert import find_moex
from ..insertion.moex import MoEx

__all__ = ["MoExTask", "create_task", "draw_swap_index", "mix_loss"]

_logger = logging.getLogger(__name__)


def draw_swap_index(batch_size: int, prob: float = 1.0, generator: torch.Generator | None = None) -> Tensor | None:
    """Toss the coin for one batch and, if it says so, draw a permutation of its samples.

    Args:
        batch_size: Number of samples B.
        prob: Probability of an exchange.
        generator: Source of randomness on the CPU; default torch's own, which timm's seed and rank govern.

    Returns:
        Permutation of range(B), (B,), int64, on the CPU; None for no exchange.

    Raises:
        ValueError: `prob` outside [0, 1] or `batch_size` < 1.
    """
    if not 0 <= prob <= 1:
        raise ValueError(f"prob={prob}: expected a number in [0, 1]")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected at least 1")
    if prob == 0 or torch.rand((), generator=generator).item() >= prob:
        return None
    return torch.randperm(batch_size, generator=generator)


def mix_loss(
    criterion: Callable[[Tensor, Tensor], Tensor],
    output: Tensor,
    target: Tensor,
    swap_index: Tensor | None,
    lam: float,
) -> Tensor:
    """Loss of a batch whose moments were exchanged: each sample's own label and that of its moments' donor.

    Equals `lam * criterion(output, target) + (1 - lam) * criterion(output, target[swap_index])`, by two calls, since a
    criterion need not be linear in the target (BCE with a threshold). Source: Li et al., CVPR 2021, section 3.

    Args:
        criterion: Loss of (output, target).
        output: Logits, (B, classes).
        target: Class indices, (B,), or soft targets, (B, classes).
        swap_index: Donor of each sample, (B,), int64; None for a batch without exchange.
        lam: Weight of a sample's own label, in [0, 1].

    Returns:
        The loss, of the shape `criterion` gives.
    """
    if swap_index is None:
        return criterion(output, target)
    return lam * criterion(output, target) + (1 - lam) * criterion(output, target[swap_index])


class MoExTask(ClassificationTask):
    """timm's classification task with Moment Exchange: one coin flip and one permutation per step.

    The settings (`prob`, `lam`, the layers) are those of the model's MoEx. Where the model holds several layers, each
    exchanged batch draws one of them. While the model is in eval mode nothing is exchanged.

    Args:
        model: A model that holds MoEx.
        *args: As for `timm.task.ClassificationTask`: criterion, …
        **kwargs: Likewise.

    Raises:
        ValueError: `model` holds no MoEx.
    """

    def __init__(self, model: nn.Module, *args, **kwargs):
        moex = find_moex(model)
        if moex is None:
            raise ValueError(f"model {type(model).__name__} holds no MoEx; use a moex_ twin or insert_moex(model)")
        super().__init__(model, *args, **kwargs)
        if self.verbose:
            _logger.info(f"MoEx: prob={moex.prob}, lam={moex.lam}, {', '.join(s.extra_repr() for s in moex.sites)}")

    @property
    def moex(self) -> MoEx:
        return find_moex(self.trainable_module)

    def forward(self, input: Tensor, target: Tensor) -> dict:
        """One training step's forward pass.

        Args:
            input: Images, (B, C, H, W).
            target: Class indices, (B,), or soft targets, (B, classes).

        Returns:
            timm's `loss` and `output`, and `exchanged` (bool) and `site` (its name, or None).
        """
        moex = self.moex
        swap_index = draw_swap_index(len(target), moex.prob) if self.trainable_module.training else None
        swap_layer = None
        if swap_index is not None:
            swap_index = swap_index.to(target.device, non_blocking=True)
            names = moex.site_names
            swap_layer = names[int(torch.randint(len(names), ())) if len(names) > 1 else 0]
        output = self.trainable_module(input, swap_index=swap_index, swap_layer=swap_layer)
        loss = mix_loss(self.criterion, output, target, swap_index, moex.lam)
        return {"loss": loss, "output": output, "exchanged": swap_index is not None, "site": swap_layer}


def create_task(model: nn.Module, *args, **kwargs) -> ClassificationTask:
    """`MoExTask` for a model that exchanges (it holds MoEx and `prob` > 0), else timm's `ClassificationTask`."""
    moex = find_moex(model)
    task_class = MoExTask if moex is not None and moex.prob > 0 else ClassificationTask
    return task_class(model, *args, **kwargs)
