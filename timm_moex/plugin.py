"""What timm's stock train.py imports: `python train.py --device-modules timm_moex.plugin --model moex_resnet50 …`.

train.py has bound the name `ClassificationTask` before it imports this module, so it is the class that must answer:
`ClassificationTask(model, …)` becomes a `MoExTask` where the model exchanges, and stays what it was where it does not.
"""

import timm.task
from torch import nn

import timm_moex  # noqa: F401  registers the twins

from .insertion.insert import find_moex
from .training.task import MoExTask

__all__: list[str] = []


def _choose_task(cls, model: nn.Module | None = None, *args, student_model: nn.Module | None = None, **kwargs):
    trained = model if model is not None else student_model
    moex = find_moex(trained) if isinstance(trained, nn.Module) else None
    if moex is not None and moex.prob > 0 and not issubclass(cls, MoExTask):
        if cls is not timm.task.ClassificationTask:
            raise TypeError(
                f"{cls.__name__} cannot train a model with moex_prob={moex.prob}: it never exchanges moments. "
                "Set moex_prob=0 or train without it (train.py: without --kd-model-name)."
            )
        cls = MoExTask
    return object.__new__(cls)


timm.task.TrainingTask.__new__ = staticmethod(_choose_task)
