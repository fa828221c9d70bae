"""timm's training task with Moment Exchange: the model draws the donors, and the loss mixes their labels."""

import logging
from typing import Any

import timm.task
from timm.task import ClassificationTask
from torch import Tensor, nn

from ..insertion.exchanging import exchanging
from ..insertion.find import find_moex, require_moex
from ..insertion.moex import MoExInsertion
from .loss import MoExLoss

__all__ = ["MoExMultiLabelTask", "MoExTask", "create_task"]

_logger = logging.getLogger(__name__)


class MoExTask(ClassificationTask):
    """timm's classification task with Moment Exchange.

    The model draws in its training forwards, and the criterion is a `MoExLoss`, which mixes the labels. The settings
    (`prob`, `lam`, the layers, …) are taken from the model's MoEx, see `insert_moex`.

    If the probability depends on the epoch (`off_epoch`, `warmup_epochs`), call `set_epoch` before each epoch.

    Args:
        model: A model with MoEx: a twin, or any module that contains one.
        *args: Positional arguments of `timm.task.ClassificationTask`: criterion, …
        **kwargs: Keyword arguments of `timm.task.ClassificationTask`.

    Raises:
        ValueError: `model` has no MoEx insertion, or more than one.

    Example:
        >>> import timm, timm_moex, torch
        >>> task = MoExTask(timm.create_model("moex_resnet18"), torch.nn.CrossEntropyLoss(), verbose=False)
        >>> result = task(torch.randn(2, 3, 64, 64), torch.tensor([3, 7]))
        >>> result["exchanged"], result["site"], result["output"].shape
        (True, 'stem', torch.Size([2, 1000]))
    """

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        require_moex(model)
        super().__init__(model, *args, **kwargs)
        if not isinstance(self.criterion, MoExLoss):
            self.criterion: MoExLoss = MoExLoss(self.trainable_module, self.criterion)
        if self.verbose:
            sites = ", ".join(site.extra_repr() for site in self.moex.sites)
            _logger.info(f"MoEx: {self.moex.extra_repr()}, {sites}")

    @property
    def moex(self) -> MoExInsertion:
        """MoEx of the trained model."""
        return self.criterion.moex

    def set_epoch(self, epoch: int) -> None:
        """Set the current epoch, counted from 0."""
        self.moex.set_epoch(epoch)

    def forward(self, input: Tensor, target: Tensor, groups: Tensor | None = None) -> dict[str, Any]:
        """Compute the loss of one training step.

        Args:
            input: Images, (B, C, H, W).
            target: Class indices, (B,), or soft targets, (B, classes).
            groups: Group of each sample, (B,). Donors then come from other groups, see `draw_swap_index`.

        Returns:
            timm's `loss` and `output`, plus `exchanged` (bool), `sites` (names of the sites that exchanged) and `site`
            (the name if exactly one site exchanged, else None).
        """
        self.moex.last_sites = ()
        if groups is None:
            result = super().forward(input, target)
        else:
            with exchanging(self.trainable_module, groups=groups):
                result = super().forward(input, target)
        sites = self.moex.last_sites
        return {**result, "exchanged": bool(sites), "site": sites[0] if len(sites) == 1 else None, "sites": sites}


MoExMultiLabelTask: type[MoExTask] | None = None
if hasattr(timm.task, "MultiLabelClassificationTask"):  # added in timm 1.0.30

    class _MoExMultiLabelTask(timm.task.MultiLabelClassificationTask, MoExTask):  # type: ignore[misc]
        """timm's multi-label task with Moment Exchange: check the dense targets, then run the step of `MoExTask`."""

    _MoExMultiLabelTask.__name__ = _MoExMultiLabelTask.__qualname__ = "MoExMultiLabelTask"
    MoExMultiLabelTask = _MoExMultiLabelTask


def create_task(model: nn.Module, *args: Any, **kwargs: Any) -> ClassificationTask:
    """Create a `MoExTask` if the model has MoEx with `prob` > 0, else timm's `ClassificationTask`.

    Args:
        model: The model to train.
        *args: Positional arguments of `timm.task.ClassificationTask`: criterion, …
        **kwargs: Keyword arguments of `timm.task.ClassificationTask`.

    Raises:
        ValueError: The model contains several MoEx.

    Example:
        >>> import timm, timm_moex, torch
        >>> model = timm.create_model("moex_resnet18", moex_prob=0.0)
        >>> type(create_task(model, torch.nn.CrossEntropyLoss(), verbose=False)).__name__
        'ClassificationTask'
    """
    moex = find_moex(model)
    task_class = MoExTask if moex is not None and moex.prob > 0 else ClassificationTask
    return task_class(model, *args, **kwargs)
