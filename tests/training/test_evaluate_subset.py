"""`timm-moex eval` on subsets of ImageNet and per class: known answers, and the numbers of timm's validate.py."""

import csv
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from hub_folders import CONFIG
from PIL import Image
from tinydata import write_tiny
from torch import nn

from timm_moex.cli import main
from timm_moex.hub import save_folder
from timm_moex.training.evaluate import evaluate
from timm_moex.training.inference import SUBSETS, imagenet_subset

CLONE = os.environ.get("TIMM_MOEX_TIMM_CLONE")
needs_clone = pytest.mark.skipif(not CLONE, reason="validate.py: set TIMM_MOEX_TIMM_CLONE to a clone of timm")


def run(capsys, *words):
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", SUBSETS)
def test_columns_are_those_that_timm_lists(name):
    subset = imagenet_subset(name)
    listed = pkgutil.get_data("timm.data", SUBSETS[name].replace("synsets", "indices")).decode().split()
    assert len(subset) == 200 and list(subset.values()) == [int(index) for index in listed]
    synsets = timm.data.ImageNetInfo().label_names()
    assert all(synsets[column] == synset for synset, column in subset.items())


# Synset: the shades of red of its images. The right answer is its number times 50; some images are of another's shade.
SHADES = {0: [0, 0, 50], 3: [150, 150], 100: [], 199: [200, 0, 200, 200]}
SHADE_OF = {0: 0, 3: 150, 100: 100, 199: 200}


class Shade(nn.Module):
    """Predicts the class with the nearest shade; a class outside every subset always has a higher logit."""

    num_classes = 1000

    def __init__(self, columns):
        super().__init__()
        self.pretrained_cfg = dict(CONFIG, mean=(0.0,) * 3, std=(1.0,) * 3)
        self.columns = columns

    def forward(self, x):
        logits = torch.full((len(x), 1000), -1e6)
        for number, shade in SHADE_OF.items():
            logits[:, self.columns[number]] = -((x[:, 0].mean((1, 2)) * 255 - shade) ** 2)
        outside = next(i for i in range(1000) if i not in self.columns)
        logits[:, outside] = 1e6
        return logits


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A folder like ImageNet-A's, with four of its synsets, and a model whose answers are known."""
    subset = imagenet_subset("imagenet-a")
    synsets = list(subset)
    for number, shades in SHADES.items():
        (tmp_path / synsets[number]).mkdir()
        for i, shade in enumerate(shades):
            Image.new("RGB", (32, 32), (shade, 9, 9)).save(tmp_path / synsets[number] / f"{i}.png")
    model = Shade(list(subset.values()))
    monkeypatch.setattr("timm_moex.training.inference.load_model", lambda name: model)
    return tmp_path, synsets


def test_synset_folders_meet_the_right_logits(stand_in, capsys):
    folder, synsets = stand_in
    table = folder.with_name("per_class.csv")  # not among the images
    words = ("--data-dir", folder, "--subset", "imagenet-a", "--per-class", table, "--batch-size", 4)
    code, out, err = run(capsys, "eval", "test_resnet", *words)
    assert code == 0 and "top-1 77.78, " in out and "9 images" in out, (out, err)
    assert list(csv.reader(table.open())) == [
        ["class", "images", "correct", "top1"],
        [synsets[0], "3", "2", "66.67"],
        [synsets[3], "2", "2", "100.00"],
        [synsets[199], "4", "3", "75.00"],
    ]


def test_what_cannot_be_evaluated_on_a_subset_is_named(stand_in, capsys):
    folder, _ = stand_in
    words = ("eval", "test_resnet", "--data-dir", folder, "--subset")
    assert "did you mean 'imagenet-a'" in run(capsys, *words, "imagenet-aa")[2]
    (folder / "n00000000").mkdir()
    assert "not synsets of imagenet-a: n00000000" in run(capsys, *words, "imagenet-a")[2]
    assert "no such folder" in run(capsys, "eval", "test_resnet", "--subset", "imagenet-r")[2]


def test_a_model_of_other_classes_is_refused(tmp_path, capsys):
    folder = save_folder(timm.create_model("test_resnet", num_classes=10), tmp_path / "hub", CONFIG)
    (tmp_path / "data" / list(imagenet_subset("imagenet-r"))[0]).mkdir(parents=True)
    code, _, err = run(capsys, "eval", folder, "--data-dir", tmp_path / "data", "--subset", "imagenet-r")
    assert code == 2 and "--subset needs ImageNet's 1,000 classes" in err and "has 10" in err


def test_counts_per_class_add_up_to_top1():
    torch.manual_seed(0)
    logits, target = torch.randn(40, 6), torch.randint(6, (40,))
    loader = list(zip(logits.split(7), target.split(7)))
    metrics = evaluate(nn.Identity(), loader, "cpu", per_class=True)
    assert metrics["images"] == target.bincount(minlength=6).tolist()
    assert metrics["correct"] == [int(((logits.argmax(1) == target) & (target == c)).sum()) for c in range(6)]
    assert metrics["top1"] == 100 * sum(metrics["correct"]) / 40
    few = target < 2
    some = evaluate(nn.Identity(), [(logits[few], target[few])], "cpu", columns=[1, 0])
    right = logits[few][:, [1, 0]].argmax(1) == target[few]
    assert some["top1"] == pytest.approx(100 * right.float().mean().item())


def validate(*words):
    """Top-1 and top-5 by timm's validate.py."""
    command = [sys.executable, str(Path(CLONE) / "validate.py"), *map(str, words), "--device", "cpu", "--workers", "1"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": CLONE}, capture_output=True, text=True, cwd=words[1])
    assert done.returncode == 0, done.stderr
    return tuple(float(re.search(rf'"{key}": ([\d.]+)', done.stdout)[1]) for key in ("top1", "top5"))


@needs_clone
def test_numbers_are_those_of_validate_py(tmp_path, capsys):
    data = write_tiny(tmp_path / "data", test=50)
    config = CONFIG | dict(input_size=(1, 28, 28), mean=(0.3,), std=(0.4,), crop_pct=0.9)
    folder = save_folder(timm.create_model("test_resnet", num_classes=10, in_chans=1), tmp_path / "hub", config)
    common = ("--data-dir", data, "--dataset", "torch/fashion_mnist", "--split", "validation", "--batch-size", 16)
    theirs = validate(*common, "--model", f"local-dir:{folder}", "--in-chans", 1, "--pretrained")
    out = run(capsys, "eval", folder, *common)[1]
    assert f"top-1 {theirs[0]:.2f}, top-5 {theirs[1]:.2f}" in out and 0 < theirs[0] < theirs[1]


@needs_clone
def test_subset_numbers_are_those_of_validate_py(tmp_path, capsys):
    subset, images = imagenet_subset("imagenet-r"), tmp_path / "data"
    torch.manual_seed(0)
    for synset in list(subset)[:8]:
        (images / synset).mkdir(parents=True)
        for i in range(5):
            pixels = torch.randint(256, (40, 40, 3), dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(images / synset / f"{i}.png")
    folder = save_folder(timm.create_model("test_resnet"), tmp_path / "hub", CONFIG)
    (tmp_path / "map.txt").write_text("\n".join(subset))
    (tmp_path / "labels.txt").write_text("\n".join(map(str, subset.values())))
    theirs = validate(
        *("--data-dir", images, "--split", "", "--model", f"local-dir:{folder}", "--pretrained", "--batch-size", 16),
        *("--class-map", tmp_path / "map.txt", "--valid-labels", tmp_path / "labels.txt"),
    )
    out = run(capsys, "eval", folder, "--data-dir", images, "--subset", "imagenet-r")[1]
    assert f"top-1 {theirs[0]:.2f}, top-5 {theirs[1]:.2f}" in out
