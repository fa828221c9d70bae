"""The loss of MoEx and the training task that draws, exchanges and mixes, once per step."""

import logging
from collections.abc import Callable
from typing import Any

import timm.task
from timm.task import ClassificationTask
from torch import Tensor, nn

from ..exchange.arguments import check_swap_index
from ..insertion.exchanging import exchanging
from ..insertion.find import find_moex, takes_swap_index
from ..insertion.moex import MoEx
from ..utils.checks import check_fraction
from .draw import draw_exchange

__all__ = ["MoExMultiLabelTask", "MoExTask", "create_task", "mix_loss"]

_logger = logging.getLogger(__name__)
_OTHER_GRAPHS = 4  # the first step of a thread, evaluation, and those of the EMA


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
        >>> import torch
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
    """timm's classification task with Moment Exchange: each step draws what is exchanged.

    The settings (`prob`, `lam`, the layers, …) are those of the model's MoEx, see `insert_moex`. A step tosses one coin
    and draws one permutation; where the model holds several layers it also draws one of them, or with `each_site`
    tosses a coin and draws a permutation for each. While the model is in eval mode nothing is exchanged.

    A model whose probability changes with the epoch (`off_epoch`, `ramp_epochs`) needs `set_epoch` before each one.

    Args:
        model: A model that holds MoEx: a twin, or any module with one inside.
        *args: As for `timm.task.ClassificationTask`: criterion, …
        **kwargs: Likewise.

    Raises:
        ValueError: `model` holds no MoEx, or several.

    Example:
        >>> import timm, timm_moex, torch
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
        self.epoch: int | None = None
        if self.verbose:
            _logger.info(f"MoEx: {moex.extra_repr()}, {', '.join(s.extra_repr() for s in moex.sites)}")

    def set_epoch(self, epoch: int) -> None:
        """State the epoch that the next steps belong to, counted from 0."""
        self.epoch = epoch

    @property
    def moex(self) -> MoEx:
        """The MoEx of the model that is trained."""
        moex = find_moex(self.trainable_module)
        if moex is None:
            raise ValueError(f"{type(self.trainable_module).__name__} holds no MoEx any more")
        return moex

    def compile(self, *args: Any, **kwargs: Any) -> nn.Module:  # type: ignore[override]  # as timm overrides it
        """As `timm.task.ClassificationTask.compile`, with room for a graph for each set of sites that can exchange.

        Dynamo gives up after `torch._dynamo.config.recompile_limit` graphs of a function, 8 by default: too few for
        MixStyle's three coins and evaluation. Where more are needed the limit is raised, for the whole process.

        Args:
            *args: timm's: backend, mode.
            **kwargs: timm's, and those of `torch.compile`.

        Returns:
            The compiled model.
        """
        from torch._dynamo import config  # as late as torch.compile

        sites = len(self.moex.sites)
        sets = 2**sites if self.moex.each_site else sites + 1
        config.recompile_limit = max(config.recompile_limit, sets + _OTHER_GRAPHS)
        return super().compile(*args, **kwargs)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Any]:
        """One training step's forward pass.

        Args:
            input: Images, (B, C, H, W).
            target: Class indices, (B,), or soft targets, (B, classes).

        Returns:
            timm's `loss` and `output`, and `exchanged` (bool), `site` (its name where there is one, else None) and
            `sites` (the names of all that exchanged).
        """
        moex, model = self.moex, self.trainable_module
        prob = moex.prob_at(self.epoch) if model.training else 0.0
        swap_index, own_share = draw_exchange(moex, len(target), prob, target.device)
        if takes_swap_index(model, moex):
            output = model(input, swap_index=swap_index or None, own_share=own_share or None)
        else:
            with exchanging(model, swap_index or None, own_share=own_share or None):
                output = model(input)
        sites = tuple(swap_index)
        donors = swap_index[sites[0]] if sites and moex.lam < 1 else None
        loss = mix_loss(self.criterion, output, target, donors, moex.lam)
        site = sites[0] if len(sites) == 1 else None
        return {"loss": loss, "output": output, "exchanged": bool(sites), "site": site, "sites": sites}


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
        >>> import timm, timm_moex, torch
        >>> model = timm.create_model("moex_resnet18", moex_prob=0.0)
        >>> type(create_task(model, torch.nn.CrossEntropyLoss(), verbose=False)).__name__
        'ClassificationTask'
    """
    moex = find_moex(model)
    task_class = MoExTask if moex is not None and moex.prob > 0 else ClassificationTask
    return task_class(model, *args, **kwargs)
