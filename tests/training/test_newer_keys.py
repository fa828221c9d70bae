"""Keys of train.py in timm 1.0.31 that 1.0.29 lacked: loss, task, stop_epoch, save_epochs, resume: auto."""

import pytest
import timm.loss
import torch
from tinydata import tiny_recipe, write_tiny

from timm_moex.training.build import set_up_training
from timm_moex.training.loop import train
from timm_moex.training.recipe import RecipeError

QUIET = dict(log=lambda line: None, progress=False, in_memory=True)


@pytest.fixture
def data(tmp_path):
    return write_tiny(tmp_path / "data")


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


def weights_of(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_a_stopped_run_resumes_to_the_files_of_an_uninterrupted_one(tmp_path, data):
    whole = train(tiny_recipe(data), tmp_path / "whole", **QUIET)
    stopped = train(tiny_recipe(data, stop_epoch=1), tmp_path / "stopped", **QUIET)
    card = (stopped.folder / "hub" / "README.md").read_text(encoding="utf-8")
    assert "after epoch 1 of 3" in card
    resumed = train(tiny_recipe(data, resume=str(stopped.folder / "last.pth.tar")), stopped.folder, **QUIET)
    for name in ("summary.csv", "hub/summary.csv", "hub/model.safetensors"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert "after epoch 3 of 3" in (resumed.folder / "hub" / "README.md").read_text(encoding="utf-8")


def test_milestones_are_the_checkpoints_of_their_epochs(tmp_path, data):
    result = train(tiny_recipe(data, save_epochs=[1, 3]), tmp_path / "run", **QUIET)
    assert [name for name in files_of(result.folder) if name.startswith("milestone")] == [
        "milestone-1.pth.tar",
        "milestone-3.pth.tar",
    ]
    first = train(tiny_recipe(data, stop_epoch=1), tmp_path / "first", **QUIET)
    for ours, theirs in (("milestone-1", first.folder), ("milestone-3", result.folder)):
        weights = weights_of(theirs / "last.pth.tar")
        assert all(torch.equal(w, weights[k]) for k, w in weights_of(result.folder / f"{ours}.pth.tar").items())


def test_milestones_of_another_run_are_not_replaced(tmp_path, data):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "milestone-1.pth.tar").write_text("mine")
    with pytest.raises(FileExistsError, match="already contains milestone-1.pth.tar"):
        train(tiny_recipe(data, save_epochs=[1]), tmp_path / "run", **QUIET)
    assert (tmp_path / "run" / "milestone-1.pth.tar").read_text() == "mine"


def test_resume_auto_starts_a_run_or_continues_it(tmp_path, data):
    recipe = tiny_recipe(data, resume="auto")
    for stop in (1, 2):
        result = train(recipe.override(stop_epoch=stop), tmp_path / "run", **QUIET)
        assert result.metrics and len((result.folder / "summary.csv").read_text().splitlines()) == 1 + stop


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (dict(loss="ce"), torch.nn.CrossEntropyLoss),
        (dict(loss="ce", smoothing=0.1), timm.loss.LabelSmoothingCrossEntropy),
        (dict(loss="ce", cutmix=1.0), timm.loss.SoftTargetCrossEntropy),
        (dict(loss="bce"), timm.loss.BinaryCrossEntropy),
        (dict(loss="asl"), timm.loss.AsymmetricLossSingleLabel),
        (dict(loss="poly"), timm.loss.PolyCrossEntropy),
    ],
)
def test_loss_is_timms_of_that_name(settings, expected, data):
    recipe = tiny_recipe(data, smoothing=0.0, model_kwargs={"moex_prob": 1.0}).override(**settings)
    run = set_up_training(recipe.override(in_memory=True, pad=0).arguments())
    assert type(run.task.criterion.criterion) is expected
    images, target, _ = run.prepare(*next(iter(run.train_loader)))
    result = run.task(images, target)
    assert result["exchanged"] and result["loss"].isfinite()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(stop_epoch=4), "stop_epoch: 4: the run has only 3 epochs"),
        (dict(save_epochs=[2, 9]), r"save_epochs: \[9\]: the run has only 3 epochs"),
        (dict(save_epochs=[1, 3], stop_epoch=2), r"save_epochs: \[3\]: the run has only 3 epochs and stop_epoch: 2"),
        (dict(loss="asl", bce_loss=True), "loss: 'asl' with bce_loss: true"),
        (dict(loss="poly", bce_pos_weight=2.0), "bce_pos_weight: 2.0 has no effect without bce_loss or loss: bce"),
        (dict(loss="asl", cutmix=1.0), "loss: 'asl' with smoothing"),
        (dict(loss="jsd"), "loss: 'jsd': the built-in trainer supports None, 'ce', 'bce', 'asl', 'poly'"),
        (dict(task="multilabel"), "task: 'multilabel': the built-in trainer supports None, 'classification'"),
    ],
)
def test_unsupported_settings_are_named(settings, message, tmp_path, data):
    with pytest.raises(RecipeError, match=message):
        train(tiny_recipe(data, **settings), tmp_path / "run", **QUIET)
    assert not (tmp_path / "run").exists()
