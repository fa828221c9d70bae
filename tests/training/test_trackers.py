"""Weights & Biases and TensorBoard receive the rows of summary.csv; both packages are stubs here."""

import csv
import sys
from types import ModuleType, SimpleNamespace

import pytest
from tinydata import tiny_recipe, write_tiny

from timm_moex.training.loop import train
from timm_moex.training.run_folder import RunFolder

QUIET = dict(log=lambda line: None, progress=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("data"), train=32, test=10)


@pytest.fixture
def wandb(monkeypatch):
    """A stub for wandb that records its calls."""
    module = ModuleType("wandb")
    module.inits, module.rows, module.finished = [], [], []
    run = SimpleNamespace(log=module.rows.append, finish=lambda exit_code: module.finished.append(exit_code))
    module.init = lambda **kwargs: module.inits.append(kwargs) or run
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.fixture
def events(monkeypatch):
    """The calls of a stub for TensorBoard's SummaryWriter: (folder, keywords) first, then scalars."""
    got = []

    class SummaryWriter:
        def __init__(self, folder, **kwargs):
            got.append((folder, kwargs))

        def add_scalar(self, tag, value, step):
            got.append((tag, value, step))

        def flush(self): ...

        def close(self): ...

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return got


def rows_of(folder):
    with (folder / "summary.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_trackers_get_the_rows_of_the_summary(data, wandb, events, tmp_path):
    recipe = tiny_recipe(data, epochs=2, log_wandb=True, wandb_project="pets", wandb_tags=["a"])
    train(recipe, tmp_path / "run", in_memory=True, log_tensorboard=True, **QUIET)
    rows = rows_of(tmp_path / "run")
    assert wandb.rows == rows and len(rows) == 2 and wandb.finished == [0]
    (init,) = wandb.inits
    assert (init["project"], init["name"], init["tags"]) == ("pets", "run", ["a"])
    assert init["config"]["model"] == "moex_test_resnet" and "resume" not in init
    assert events[0] == (tmp_path / "run" / "tensorboard", {"purge_step": None})
    assert {(tag, step): value for tag, value, step in events[1:]} == {
        (key.replace("_", "/", 1), row["epoch"]): value for row in rows for key, value in row.items() if key != "epoch"
    }


def test_a_resumed_run_continues_in_both(data, wandb, events, tmp_path, monkeypatch):
    recipe, record = tiny_recipe(data, epochs=2), RunFolder.record

    def record_and_interrupt(*args):
        record(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFolder, "record", record_and_interrupt)
        train(recipe, tmp_path / "run", in_memory=True, **QUIET)
    again = recipe.override(resume=str(tmp_path / "run" / "last.pth.tar"), log_wandb=True, wandb_resume_id="abc")
    train(again, tmp_path / "run", in_memory=True, log_tensorboard=True, **QUIET)
    assert wandb.rows == rows_of(tmp_path / "run")[1:] and len(wandb.rows) == 1
    assert (wandb.inits[0]["resume"], wandb.inits[0]["id"]) == ("must", "abc")
    assert events[0][1] == {"purge_step": 1}


def test_failed_run_is_marked_in_wandb(data, wandb, tmp_path):
    recipe = tiny_recipe(data, epochs=1, lr=1e9, log_wandb=True, opt="sgd")
    with pytest.raises(FloatingPointError):
        train(recipe, tmp_path / "run", in_memory=True, **QUIET)
    assert wandb.finished == [1]


@pytest.mark.parametrize(
    "settings, missing, message",
    [
        (dict(log_wandb=True), "wandb", "pip install wandb"),
        (dict(log_tensorboard=True), "torch.utils.tensorboard", "pip install tensorboard"),
    ],
)
def test_missing_package_is_an_error_and_nothing_is_written(settings, missing, message, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=message):
        train(tiny_recipe(data, **settings), tmp_path / "run", **QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(wandb_tags=["a"]), "wandb_tags: .* has no effect without log_wandb"),
        (dict(log_wandb=True, wandb_resume_id="abc"), "wandb_resume_id: 'abc' has no effect without resume"),
    ],
)
def test_settings_without_effect_are_rejected(settings, message, data, wandb, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(tiny_recipe(data, **settings), tmp_path / "run", **QUIET)
