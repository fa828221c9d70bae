"""Corruptions do what they claim, and the robustness table measures each checkpoint correctly and once."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from timm.data import resolve_data_config

from timm_moex.hub import load_model
from timm_moex.training.datasets import open_dataset, sample_dir
from timm_moex.training.evaluate import evaluate
from timm_moex.training.loaders import create_eval_loader

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks.study import robustness as bench  # noqa: E402
from benchmarks.study.corruptions import CORRUPTIONS, SEVERITIES, corrupt  # noqa: E402

WEIGHTS = ROOT / "weights" / "resnet20_cifar.fmnist_sample"
CPU = torch.device("cpu")
RANDOM = {"gaussian_noise", "shot_noise", "salt_and_pepper", "rotation", "elastic", "occlusion"}


@pytest.fixture(scope="module")
def sample():
    return bench.balanced_images(sample_dir(), 100)


@pytest.fixture
def runs(tmp_path):
    shutil.copytree(WEIGHTS, tmp_path / "runs" / "cpu-small-resnet20_cifar-moex-0" / "hub")
    (tmp_path / "runs" / "cpu-small-resnet20_cifar-moex-1").mkdir()  # not trained yet
    return tmp_path / "runs"


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_seed_decides_and_the_global_generator_is_left_alone(kind, sample):
    images, before = sample[0].clone(), torch.get_rng_state()
    first = corrupt(images, kind, 3, seed=1)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(images, sample[0])
    torch.rand(1)
    assert torch.equal(first, corrupt(images, kind, 3, seed=1))
    assert torch.equal(first, corrupt(images, kind, 3, seed=2)) == (kind not in RANDOM)


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(3, 1, 28, 28), (2, 3, 40, 33), (1, 3, 11, 16)])
def test_shape_and_type_are_kept_in_grey_and_colour(kind, shape):
    images = torch.randint(256, shape, dtype=torch.uint8)
    for severity in SEVERITIES:
        out = corrupt(images, kind, severity)
        assert out.shape == shape and out.dtype == torch.uint8


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_every_severity_changes_pixels_more_than_the_one_before(kind, sample):
    images = sample[0].float()
    change = [(corrupt(sample[0], kind, severity).float() - images).abs().mean().item() for severity in SEVERITIES]
    assert change == sorted(change) and change[4] > 1.5 * change[0] > 0


@pytest.mark.parametrize("amount", [1.6, 2, 4])
def test_brightness_darkens_no_pixel(amount, sample):
    bright = CORRUPTIONS["brightness"][0](sample[0], amount, torch.Generator())
    assert (bright >= sample[0]).all() and (bright[sample[0] > 255 / amount] == 255).all()


def test_a_misspelt_kind_suggests_the_right_one_and_other_images_are_rejected(sample):
    with pytest.raises(ValueError, match="did you mean 'elastic'"):
        corrupt(sample[0], "elastik", 1)
    with pytest.raises(ValueError, match="severity=0"):
        corrupt(sample[0], "elastic", 0)
    with pytest.raises(TypeError, match="float32"):
        corrupt(sample[0].float(), "elastic", 1)


@pytest.mark.parametrize(
    "confidence, correct, bins, expected",
    [
        ([0.9, 0.9, 0.5, 0.5], [1, 0, 1, 1], 15, (abs(1 - 1.8) + abs(2 - 1.0)) / 4),
        ([0.9, 0.9, 0.5, 0.5], [1, 0, 1, 1], 1, abs(3 - 2.8) / 4),
        ([0.5, 0.75], [0, 1], 2, (0.5 + 0.25) / 2),  # 0.5 is of the lower bin
        ([1.0, 0.0], [1, 0], 15, 0.0),
        ([1.0, 1.0], [0, 0], 15, 1.0),
    ],
)
def test_calibration_error_is_the_one_worked_out_by_hand(confidence, correct, bins, expected):
    found = bench.calibration_error(torch.tensor(confidence), torch.tensor(correct).bool(), bins)
    assert found == pytest.approx(expected, abs=1e-7)


def test_error_on_clean_images_is_that_of_the_evaluation():
    model = load_model(WEIGHTS)
    dataset = open_dataset("torch/fashion_mnist", sample_dir(), "validation", input_img_mode="L")
    loader = create_eval_loader(dataset, resolve_data_config({}, model=model), 250, device=CPU)
    images, target = bench.balanced_images(sample_dir(), 1000)  # all there are
    found = bench.measure(model, images, target, CPU)
    assert found["error"] == pytest.approx(100 - evaluate(model, loader, CPU)["top1"], abs=0.005)
    assert not model._forward_hooks


def test_images_are_as_many_of_each_class():
    images, target = bench.balanced_images(sample_dir(), 50)
    assert target.bincount().tolist() == [5] * 10 and images.shape == (50, 1, 28, 28) and images.dtype == torch.uint8
    for wrong in (0, 55, 1010):
        with pytest.raises(ValueError, match=f"images={wrong}: expected a multiple of 10, at most 1000"):
            bench.balanced_images(sample_dir(), wrong)


def test_all_images_are_used_if_there_are_fewer_than_requested(monkeypatch):
    assert len(bench.balanced_images(sample_dir())[0]) == 1000
    monkeypatch.setattr(bench, "IMAGES", 30)
    assert len(bench.balanced_images(sample_dir())[0]) == 30


def test_images_of_another_size_are_refused(sample):
    with pytest.raises(ValueError, match=r"\(1, 14, 14\) for a model that takes \(1, 28, 28\)"):
        bench.measure(load_model(WEIGHTS), sample[0][:, :, ::2, ::2], sample[1], CPU)


def test_only_what_the_table_lacks_is_measured(runs, sample, tmp_path, monkeypatch, capsys):
    calls, measure = [], bench.measure
    monkeypatch.setattr(bench, "measure", lambda *args: calls.append(args) or measure(*args))
    monkeypatch.setattr(bench, "CONDITIONS", [bench.CLEAN, ("jpeg", 1), ("jpeg", 5)])
    found = bench.checkpoints(runs)
    table, images, target = tmp_path / "robustness.csv", sample[0][:20], sample[1][:20]
    bench.robustness(found, images, target, CPU, tmp_path)
    whole = table.read_text().splitlines()
    assert len(whole) == 4 and len(calls) == 3 and "corrupted_ece" in capsys.readouterr().out
    start = "preset,model,method,seed,corruption,severity,error,ece,images,weights,device,"
    assert whole[0].startswith(start) and whole[3].startswith("cpu-small,resnet20_cifar,moex,0,jpeg,5,")

    table.write_text("\n".join([*whole[:2], whole[3]]) + "\n")
    for _ in range(2):
        bench.robustness(found, images, target, CPU, tmp_path)
    assert len(calls) == 4 and sorted(table.read_text().splitlines()) == sorted(whole)

    with pytest.raises(ValueError, match="'images': '20'.*now.*'images': '10'"):
        bench.robustness(found, images[:10], target[:10], CPU, tmp_path)


def test_each_preset_is_measured_on_its_own_test_images(runs, tmp_path, monkeypatch):
    folders = {preset: tmp_path / f"data-{preset}-10-0" / "test" for preset in ("cpu-small", "sample")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    shutil.copytree(WEIGHTS, runs / "sample-resnet20_cifar-moex-0" / "hub")
    seen = {}
    monkeypatch.setattr(bench, "balanced_images", lambda folder, count: (folder, None))
    monkeypatch.setattr(
        bench, "robustness", lambda found, images, *rest: seen.update({run[0]["preset"]: images for run in found})
    )
    monkeypatch.setattr(sys, "argv", ["robustness", "--runs", str(runs)])
    bench.main()
    assert seen == folders
    folders["sample"].rmdir()
    with pytest.raises(SystemExit):
        bench.main()


def test_summary_is_clean_and_the_mean_over_corruptions():
    rows = [("clean", "10", "2"), ("jpeg", "20", "4"), ("jpeg", "40", "9"), ("elastic", "30", "5")]
    found = bench.summary([dict(zip(("corruption", "error", "ece"), row)) for row in rows])
    assert found == {"clean_error": 10, "corrupted_error": 30, "clean_ece": 2, "corrupted_ece": 6}


def test_folders_the_study_did_not_write_are_an_error(runs, tmp_path):
    assert [columns["seed"] for columns, _ in bench.checkpoints(runs, ["moex"])] == ["0"]
    with pytest.raises(ValueError, match="only='mowex'.*did you mean 'moex'"):
        bench.checkpoints(runs, ["mowex"])
    (runs / "some" / "hub").mkdir(parents=True)
    with pytest.raises(ValueError, match="expected a name as <preset>-<model>-<method>-<seed>"):
        bench.checkpoints(runs)
    with pytest.raises(ValueError, match="no folder in it contains hub/"):
        bench.checkpoints(tmp_path)


def test_the_picture_shows_every_corruption(sample, tmp_path):
    pytest.importorskip("matplotlib")
    bench.picture(sample[0][:3], tmp_path / "corruptions.png")
    assert (tmp_path / "corruptions.png").stat().st_size > 10_000
