"""After importing the plugin, `ClassificationTask(model, …)` is a MoExTask exactly if the model exchanges."""

import importlib

import pytest
import timm
import torch
from timm.task import ClassificationTask, LogitDistillationTask
from torch import nn

from timm_moex import MoExTask, draw_swap_index
from timm_moex.task.task import MoExMultiLabelTask


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
    with pytest.raises(TypeError, match="LogitDistillationTask cannot train.*moex_prob=1.0.*lam=0.9.*kd-model-name"):
        LogitDistillationTask(student_model=twin(), teacher_model=timm.create_model("resnet10t", num_classes=4))
    student = twin(moex_prob=0.0)
    LogitDistillationTask(
        student_model=student,
        teacher_model=twin(),  # a teacher never exchanges
        criterion=nn.CrossEntropyLoss(),
        verbose=False,
    )


multi_label = pytest.mark.skipif(
    not hasattr(timm.task, "MultiLabelClassificationTask"), reason="this timm has no multi-label task"
)


@multi_label
def test_multi_label_training_exchanges_and_mixes_dense_targets(reloaded):
    model, x, target = twin(moex_lam=0.7).train(), torch.randn(4, 3, 32, 32), torch.rand(4, 4).round()
    task = timm.task.MultiLabelClassificationTask(model, threshold=0.3, verbose=False)
    assert type(task) is MoExMultiLabelTask and task.threshold == 0.3
    torch.manual_seed(0)
    result = task(x, target)
    torch.manual_seed(0)
    index = draw_swap_index(4)
    output = model(x, swap_index=index)
    criterion = task.criterion.criterion
    expected = 0.7 * criterion(output, target) + 0.3 * criterion(output, target[index])
    assert result["exchanged"]
    torch.testing.assert_close(result["loss"], expected)
    with pytest.raises(ValueError, match="dense floating-point targets"):
        task(x, torch.arange(4))
    plain = timm.task.MultiLabelClassificationTask(twin(moex_prob=0.0), verbose=False)
    assert type(plain) is timm.task.MultiLabelClassificationTask


def test_tasks_of_the_users_are_left_alone(reloaded):
    class Mine(ClassificationTask):
        def __init__(self, model, extra):
            super().__init__(model, nn.CrossEntropyLoss(), verbose=False)
            self.extra = extra

    class MineWithMoEx(MoExTask):
        pass

    class FromScratch(timm.task.TrainingTask):
        def __init__(self, net):
            super().__init__()
            self.net = net

    task = Mine(twin(), extra=3)
    assert type(task) is Mine and task.extra == 3
    with pytest.warns(UserWarning, match="no moments are exchanged"):
        assert "exchanged" not in step(task)
    assert step(MineWithMoEx(twin(), nn.CrossEntropyLoss(), verbose=False))["exchanged"]
    assert type(FromScratch(twin())) is FromScratch


def test_another_task_of_timms_is_refused_for_its_own_reason(reloaded):
    class Later(timm.task.TrainingTask):
        def __init__(self, model):
            super().__init__()

    Later.__module__ = "timm.task.later"
    with pytest.raises(TypeError, match="Later cannot train.*MoExLoss cannot mix.*MoExTask.$"):
        Later(twin())
    assert type(Later(timm.create_model("resnet10t"))) is Later


def test_a_twin_inside_a_module_exchanges(reloaded):
    net = nn.Sequential(twin(), nn.Identity())
    task = ClassificationTask(net, nn.CrossEntropyLoss(), verbose=False)
    assert type(task) is MoExTask and step(task)["exchanged"]
