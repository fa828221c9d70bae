"""After importing the plugin, `ClassificationTask(model, …)` is a MoExTask exactly where the model exchanges."""

import importlib

import pytest
import timm
import torch
from timm.task import ClassificationTask, LogitDistillationTask
from torch import nn

from timm_moex import MoExTask


@pytest.fixture
def reloaded():
    """The plugin, imported twice. It stays: CPython does not restore a class whose `__new__` was set and deleted."""
    return importlib.reload(importlib.import_module("timm_moex.plugin"))


def twin(**kwargs):
    return timm.create_model("moex_resnet10t", num_classes=4, **kwargs)


def step(task):
    return task(torch.randn(4, 3, 32, 32), torch.arange(4))


def test_model_with_moex_gets_the_task_that_exchanges(reloaded):
    task = ClassificationTask(model=twin(), criterion=nn.CrossEntropyLoss(), device=torch.device("cpu"), verbose=False)
    assert type(task) is MoExTask and step(task)["exchanged"]
    assert type(ClassificationTask(twin(), nn.CrossEntropyLoss(), verbose=False)) is MoExTask


@pytest.mark.parametrize("name, kwargs", [("resnet10t", {}), ("moex_resnet10t", {"moex_prob": 0.0})])
def test_models_that_do_not_exchange_train_as_before(reloaded, name, kwargs):
    model = timm.create_model(name, num_classes=4, **kwargs)
    task = ClassificationTask(model=model, criterion=nn.CrossEntropyLoss(), verbose=False)
    assert type(task) is ClassificationTask
    state = torch.get_rng_state()
    assert "exchanged" not in step(task)
    torch.set_rng_state(state)
    x = torch.randn(4, 3, 32, 32)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    step(task)
    assert torch.equal(torch.get_rng_state(), after) and x is not None


def test_distillation_on_a_model_with_moex_is_refused_by_name(reloaded):
    with pytest.raises(TypeError, match="LogitDistillationTask cannot train a model with moex_prob=1.0.*kd-model-name"):
        LogitDistillationTask(student_model=twin(), teacher_model=timm.create_model("resnet10t", num_classes=4))
    student = twin(moex_prob=0.0)
    LogitDistillationTask(
        student_model=student,
        teacher_model=twin(),  # a teacher never exchanges
        criterion=nn.CrossEntropyLoss(),
        verbose=False,
    )
