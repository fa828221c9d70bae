"""The loss of MoEx and the training task that draws, exchanges and mixes, once per step."""

import logging
from collections.abc import Callable
from typing import Any

import timm.task
import torch
from timm.task import ClassificationTask
from torch import Tensor, nn

from ..exchange.arguments import check_swap_index
from ..insertion.exchanging import exchanging
from ..insertion.find import find_moex, takes_swap_index
from ..insertion.moex import MoEx
from ..utils.checks import check_fraction

__all__ = ["MoExMultiLabelTask", "MoExTask", "create_task", "draw_swap_index", "mix_loss"]

_logger = logging.getLogger(__name__)


def draw_swap_index(batch_size: int, prob: float = 1.0, generator: torch.Generator | None = None) -> Tensor | None:
    """Decide at random whether a batch is exchanged, and if it is, draw a permutation of its samples.

    Args:
        batch_size: Number of samples B.
        prob: Probability of an exchange.
        generator: Source of randomness on the CPU; default torch's own, which timm's seed and rank govern.

    Returns:
        Permutation of range(B), (B,), int64, on the CPU; None for no exchange.

    Raises:
        ValueError: `prob` is no number in [0, 1], `batch_size` no whole number >= 1.
        TypeError: `generator` is no `torch.Generator`.

    Example:
        >>> draw_swap_index(4, generator=torch.Generator().manual_seed(0)).sort().values
        tensor([0, 1, 2, 3])
        >>> draw_swap_index(4, prob=0.0) is None
        True
    """
    check_fraction("prob", prob)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}: expected a whole number >= 1")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
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

    Raises:
        ValueError: `lam` is no number in [0, 1], or `swap_index` has another length than `target`.
        TypeError: `swap_index` is no int64 tensor.

    Example:
        >>> output, target = torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1])
        >>> loss = mix_loss(torch.nn.CrossEntropyLoss(), output, target, torch.tensor([1, 0]), lam=0.9)
        >>> round(loss.item(), 2)  # the donor's label, which the output denies, has a share of 0.1
        0.9
    """
    check_fraction("lam", lam)
    if swap_index is None:
        return criterion(output, target)
    swap_index = check_swap_index(swap_index, len(target), "target")
    return lam * criterion(output, target) + (1 - lam) * criterion(output, target[swap_index])


class MoExTask(ClassificationTask):
    """timm's classification task with Moment Exchange: one coin flip and one permutation per step.

    The settings (`prob`, `lam`, the layers) are those of the model's MoEx. Where the model holds several layers, each
    exchanged batch draws one of them. While the model is in eval mode nothing is exchanged.

    Args:
        model: A model that holds MoEx: a twin, or any module with one inside.
        *args: As for `timm.task.ClassificationTask`: criterion, …
        **kwargs: Likewise.

    Raises:
        ValueError: `model` holds no MoEx, or several.

    Example:
        >>> import timm, timm_moex
        >>> task = MoExTask(timm.create_model("moex_resnet18"), torch.nn.CrossEntropyLoss(), verbose=False)
        >>> result = task(torch.randn(2, 3, 64, 64), torch.tensor([3, 7]))
        >>> result["exchanged"], result["site"], result["output"].shape
        (True, 'stem', torch.Size([2, 1000]))
    """

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        moex = find_moex(model)
        if moex is None:
            raise ValueError(f"model {type(model).__name__} holds no MoEx; use a moex_ twin or insert_moex(model)")
        super().__init__(model, *args, **kwargs)
        if self.verbose:
            _logger.info(f"MoEx: prob={moex.prob}, lam={moex.lam}, {', '.join(s.extra_repr() for s in moex.sites)}")

    @property
    def moex(self) -> MoEx:
        """The MoEx of the model that is trained."""
        moex = find_moex(self.trainable_module)
        if moex is None:
            raise ValueError(f"{type(self.trainable_module).__name__} holds no MoEx any more")
        return moex

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Any]:
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
        if takes_swap_index(self.trainable_module, moex):
            output = self.trainable_module(input, swap_index=swap_index, swap_layer=swap_layer)
        else:
            with exchanging(self.trainable_module, swap_index, swap_layer):
                output = self.trainable_module(input)
        loss = mix_loss(self.criterion, output, target, swap_index, moex.lam)
        return {"loss": loss, "output": output, "exchanged": swap_index is not None, "site": swap_layer}


MoExMultiLabelTask: type[MoExTask] | None = None
if hasattr(timm.task, "MultiLabelClassificationTask"):  # not before timm 1.0.30

    class _MoExMultiLabelTask(timm.task.MultiLabelClassificationTask, MoExTask):
        """timm's multi-label task with Moment Exchange: it checks the dense targets, then `MoExTask` does the step."""

    _MoExMultiLabelTask.__name__ = _MoExMultiLabelTask.__qualname__ = "MoExMultiLabelTask"
    MoExMultiLabelTask = _MoExMultiLabelTask


def create_task(model: nn.Module, *args: Any, **kwargs: Any) -> ClassificationTask:
    """`MoExTask` for a model that exchanges (it holds MoEx and `prob` > 0), else timm's `ClassificationTask`.

    Args:
        model: The model to train.
        *args: As for `timm.task.ClassificationTask`: criterion, …
        **kwargs: Likewise.

    Raises:
        ValueError: The model holds several MoEx.

    Example:
        >>> import timm, timm_moex
        >>> model = timm.create_model("moex_resnet18", moex_prob=0.0)
        >>> type(create_task(model, torch.nn.CrossEntropyLoss(), verbose=False)).__name__
        'ClassificationTask'
    """
    moex = find_moex(model)
    task_class = MoExTask if moex is not None and moex.prob > 0 else ClassificationTask
    return task_class(model, *args, **kwargs)
