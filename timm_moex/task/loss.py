"""MoEx loss: a mix of each sample's own label and the label of the sample that donated its moments."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..exchange.arguments import check_swap_index
from ..insertion.find import require_moex
from ..insertion.forwards import has_graph
from ..insertion.moex import MoExInsertion
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
    """Compute the loss of an exchanged batch from each sample's own label and its donor's label.

    Equals `lam * criterion(output, target) + (1 - lam) * criterion(output, target[swap_index])`. The criterion is
    called twice because it may not be linear in the target (e.g. BCE with a threshold). Source: Li et al., CVPR 2021,
    section 3.

    Args:
        criterion: Loss of (output, target).
        output: Logits, (B, classes).
        target: Class indices, (B,), or soft targets, (B, classes).
        swap_index: Donor of each sample, (B,), int64; None if the batch was not exchanged.
        lam: Weight of a sample's own label, in [0, 1].

    Returns:
        The loss, with the shape that `criterion` returns.

    Raises:
        ValueError: `lam` is not a number in [0, 1], or the lengths of `swap_index` and `target` differ.
        TypeError: `swap_index` is not an int64 tensor.

    Example:
        >>> import torch
        >>> output, target = torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1])
        >>> loss = mix_loss(torch.nn.CrossEntropyLoss(), output, target, torch.tensor([1, 0]), lam=0.9)
        >>> round(loss.item(), 2)  # the donor's label, which the model gets wrong, has a weight of 0.1
        0.9
    """
    check_fraction("lam", lam)
    if swap_index is None or lam == 1:
        return criterion(output, target)
    swap_index = check_swap_index(swap_index, len(target), "target")
    return lam * criterion(output, target) + (1 - lam) * criterion(output, target[swap_index])


class MoExLoss(nn.Module):
    """Criterion that mixes the labels of exchanged samples.

    Binding it to a model with `lam` < 1 makes the model draw in its training forwards. The loss must then be called
    exactly once after each training forward. If nothing was exchanged (in evaluation, without gradients, or by chance),
    it returns the plain criterion.

    Args:
        model: A model with MoEx, at any depth: a twin, DDP, or any module that contains one.
        criterion: Loss of (output, target).

    Raises:
        ValueError: `model` has no MoEx insertion, or more than one.
        TypeError: `criterion` is not callable.

    Example:
        >>> import timm, timm_moex
        >>> model = timm.create_model("moex_resnet18", num_classes=10).train()
        >>> criterion = MoExLoss(model, nn.CrossEntropyLoss())
        >>> loss = criterion(model(torch.randn(4, 3, 64, 64)), torch.tensor([3, 1, 4, 1]))
        >>> loss.backward()
    """

    moex: MoExInsertion
    criterion: Any

    def __init__(self, model: nn.Module, criterion: Callable[..., Tensor]) -> None:
        super().__init__()
        moex = require_moex(model)
        if not callable(criterion):
            raise TypeError(f"criterion must be callable, got {type(criterion).__name__}")
        if isinstance(criterion, MoExLoss):
            raise TypeError("criterion is already a MoExLoss, which mixes the labels; pass the criterion inside it")
        self.criterion: Any = criterion
        self.moex = moex
        moex.mixes_labels = True

    def __getattr__(self, name: str) -> Any:
        """Return attributes of the criterion, such as fastai's `activation` and `decodes`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            criterion = self.__dict__.get("criterion") or self.__dict__.get("_modules", {}).get("criterion")
            if criterion is None or not hasattr(criterion, name):
                raise
            return getattr(criterion, name)

    @property
    def reduction(self) -> str:
        """Reduction of the criterion; fastai sets it to "none" to get the loss of each sample."""
        return self.criterion.reduction

    @reduction.setter
    def reduction(self, value: str) -> None:
        self.criterion.reduction = value

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.moex.mixes_labels = True  # a copied MoEx draws only if its loss was copied with it

    def forward(self, output: Any, target: Tensor, num_items_in_batch: Any = None) -> Tensor:
        """Compute the loss of a forward.

        Args:
            output: Logits, (B, classes), or a mapping with an entry "logits", such as a transformers output.
            target: Class indices, (B,), or soft targets, (B, classes); anything that is indexed by sample
                and accepted by `criterion`.
            num_items_in_batch: Number of labels in all batches accumulated for one step, as the Hugging Face Trainer
                passes it to `compute_loss_func`. The mean of this batch is then weighted by its share of these labels.

        Raises:
            RuntimeError: The loss is called twice for one forward.
            ValueError: The length of `target` differs from the batch size.
        """
        logits = output["logits"] if isinstance(output, Mapping) else output
        loss = self._mixed(logits, target)
        if num_items_in_batch is None:
            return loss
        summed = getattr(self.criterion, "reduction", "mean") == "sum"
        return loss / num_items_in_batch if summed else loss * (target.ne(-100).sum() / num_items_in_batch)

    def _mixed(self, output: Any, target: Tensor) -> Tensor:
        moex, lam, compiling = self.moex, self.moex.settings.lam, torch.compiler.is_compiling()
        trains = has_graph(output) or (not compiling and moex.last is not None and moex.last.frozen)
        if lam == 1 or not torch.is_grad_enabled() or not trains:
            return self.criterion(output, target)
        donors = donors_in_graph(moex, output) if compiling else moex.donors_of(output)
        return mix_loss(self.criterion, output, target, donors, lam)

    def extra_repr(self) -> str:
        shown = "" if isinstance(self.criterion, nn.Module) else f"criterion={self.criterion!r}, "
        return f"{shown}lam={self.moex.settings.lam}, prob={self.moex.prob}"
