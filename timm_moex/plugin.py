"""Plugin for timm's stock train.py: `python train.py --device-modules timm_moex.plugin --model moex_resnet50 …`.

train.py binds the names of timm's tasks before it imports this module, so the plugin hooks into the classes themselves:
`ClassificationTask(model, …)` becomes a `MoExTask` if the model exchanges, and is unchanged otherwise. A model that
keeps labels unchanged (`lam` = 1) exchanges in every task. With `lam` < 1, tasks that cannot mix labels raise an error.
"""

import atexit
import logging
from typing import Any

import timm.task
from torch import nn

import timm_moex  # noqa: F401  registers the twins

from .insertion.find import find_moex
from .insertion.moex import MoExInsertion
from .task.task import MoExMultiLabelTask, MoExTask

__all__: list[str] = []

_logger = logging.getLogger(__name__)
_EXCHANGING: dict[type, type[MoExTask]] = {timm.task.ClassificationTask: MoExTask}
if MoExMultiLabelTask is not None:
    _EXCHANGING[timm.task.MultiLabelClassificationTask] = MoExMultiLabelTask


def _choose_task(
    cls: type, model: nn.Module | None = None, *args: Any, student_model: nn.Module | None = None, **kwargs: Any
) -> Any:
    trained = model if model is not None else student_model
    is_timms = cls.__module__.partition(".")[0] == "timm"
    moex = find_moex(trained) if is_timms and isinstance(trained, nn.Module) else None
    if moex is None or moex.prob == 0:
        return object.__new__(cls)
    if moex.off_epoch or moex.warmup_epochs:
        raise ValueError(
            f"moex_off_epoch={moex.off_epoch}, moex_warmup_epochs={moex.warmup_epochs}: timm's train.py does not tell "
            "its task the epoch, so neither has an effect. Use timm-moex train. Or leave them out, train up to "
            "moex_off_epoch, and continue with --resume last.pth.tar --model-kwargs moex_prob=0"
        )
    if cls not in _EXCHANGING and moex.lam < 1:
        distils = " (train.py: without --kd-model-name)" if "Distillation" in cls.__name__ else ""
        raise TypeError(
            f"{cls.__name__} cannot train a model with moex_prob={moex.prob} and moex_lam={moex.lam}: MoExLoss "
            "cannot mix the labels in its loss. Set moex_lam=1 (labels unchanged) or moex_prob=0, or use "
            f"timm_moex.MoExTask{distils}."
        )
    atexit.register(_log_share, moex)
    return object.__new__(_EXCHANGING.get(cls, cls))


def _log_share(moex: MoExInsertion) -> None:
    if moex.forwards:
        _logger.info(f"MoEx exchanged in {moex.exchanged} of {moex.forwards} batches of the last training epoch.")


timm.task.TrainingTask.__new__ = staticmethod(_choose_task)  # type: ignore[method-assign]
