"""The loss of MoEx: each sample's own label and that of its moments' donor."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..exchange.arguments import check_swap_index
from ..insertion.find import find_moex
from ..insertion.forwards import has_graph
from ..insertion.moex import MoEx
from ..insertion.traced import donors_in_graph
from ..utils.checks import check_fraction

__all__ = ["MoExLoss", "mix_loss"]


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
    if swap_index is None or lam == 1:
        return criterion(output, target)
    swap_index = check_swap_index(swap_index, len(target), "target")
    return lam * criterion(output, target) + (1 - lam) * criterion(output, target[swap_index])


class MoExLoss(nn.Module):
    """A criterion that mixes the labels of what the model has exchanged.

    Binding it to a model with `lam` < 1 makes the model draw in its training forwards. Each draw must reach the loss
    once before the next training forward. Without a draw (in evaluation, without gradients, when the coin says no) it
    is the criterion.

    Args:
        model: A model that holds MoEx, at any depth: a twin, DDP, or any module with one inside.
        criterion: Loss of (output, target).

    Raises:
        ValueError: `model` holds no MoEx, or several.
        TypeError: `criterion` cannot be called.

    Example:
        >>> import timm, timm_moex
        >>> model = timm.create_model("moex_resnet18", num_classes=10).train()
        >>> criterion = MoExLoss(model, nn.CrossEntropyLoss())
        >>> loss = criterion(model(torch.randn(4, 3, 64, 64)), torch.tensor([3, 1, 4, 1]))
        >>> loss.backward()
    """

    moex: MoEx
    criterion: Any

    def __init__(self, model: nn.Module, criterion: Callable[..., Tensor]) -> None:
        super().__init__()
        moex = find_moex(model)
        if moex is None:
            raise ValueError(f"model {type(model).__name__} holds no MoEx; use a moex_ twin or insert_moex(model)")
        if not callable(criterion):
            raise TypeError(f"criterion must be callable, got {type(criterion).__name__}")
        if isinstance(criterion, MoExLoss):
            raise TypeError("criterion is a MoExLoss already, which mixes the labels; give the criterion inside it")
        self.criterion: Any = criterion
        self.moex = moex
        moex.mixes_labels = True

    def __getattr__(self, name: str) -> Any:
        """Return what only the criterion has, such as fastai's `activation` and `decodes`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            criterion = self.__dict__.get("criterion") or self.__dict__.get("_modules", {}).get("criterion")
            if criterion is None or not hasattr(criterion, name):
                raise
            return getattr(criterion, name)

    @property
    def reduction(self) -> str:
        """The criterion's; fastai sets it to "none" for the loss of each sample."""
        return self.criterion.reduction

    @reduction.setter
    def reduction(self, value: str) -> None:
        self.criterion.reduction = value

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.moex.mixes_labels = True  # of the copy: it does not draw unless a copy of the loss came along

    def forward(self, output: Any, target: Tensor, num_items_in_batch: Any = None) -> Tensor:
        """Compute the loss of a forward.

        Args:
            output: Logits, (B, classes), or a mapping with an entry "logits", such as an output of transformers.
            target: Class indices, (B,), or soft targets, (B, classes); anything indexed by sample that `criterion`
                accepts.
            num_items_in_batch: Number of labels in all the batches that are accumulated for one step, as the Hugging
                Face Trainer gives it to `compute_loss_func`; the mean of this batch then counts by its share.

        Raises:
            RuntimeError: It is called twice for one forward.
            ValueError: `target` has another length than the batch that was exchanged.
        """
        logits = output["logits"] if isinstance(output, Mapping) else output
        loss = self._mixed(logits, target)
        if num_items_in_batch is None:
            return loss
        summed = getattr(self.criterion, "reduction", "mean") == "sum"
        return loss / num_items_in_batch if summed else loss * (target.ne(-100).sum() / num_items_in_batch)

    def _mixed(self, output: Any, target: Tensor) -> Tensor:
        lam = self.moex.settings.lam
        if lam == 1 or not torch.is_grad_enabled() or not has_graph(output):
            return self.criterion(output, target)
        if torch.compiler.is_compiling():
            return mix_loss(self.criterion, output, target, donors_in_graph(self.moex, output), lam)
        return mix_loss(self.criterion, output, target, self.moex.donors_of(output), lam)

    def extra_repr(self) -> str:
        shown = "" if isinstance(self.criterion, nn.Module) else f"criterion={self.criterion!r}, "
        return f"{shown}lam={self.moex.settings.lam}, prob={self.moex.prob}"
