"""The images of the CIFAR-10 study: training, monitoring and test images never overlap."""

from pathlib import Path

import pytest

from benchmarks.study import cifar10
from timm_moex.training.recipe import load_recipe


def write_images(folder, classes=10):
    for split, count in (("train", 520), ("test", 1010)):
        for number in range(classes):
            place = folder / split / f"class{number}"
            place.mkdir(parents=True)
            for image in range(count):
                (place / f"{image:04}.jpg").touch()
    return folder


def test_the_parts_are_disjoint_and_complete(tmp_path):
    folder = cifar10.link_images(write_images(tmp_path / "cifar"), 4000, tmp_path / "images")
    assert cifar10.link_images(tmp_path / "cifar", 4000, folder) == folder  # as when a study resumes
    parts = {split: {p.resolve() for p in (folder / split).glob("*/*")} for split in ("train", "val", "test")}
    assert {split: len(paths) for split, paths in parts.items()} == {"train": 4000, "val": 1000, "test": 10000}
    assert not parts["train"] & parts["val"] and not (parts["train"] | parts["val"]) & parts["test"]


def test_a_folder_with_other_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"train has 9 folders: expected the 10 classes of CIFAR-10"):
        cifar10.link_images(write_images(tmp_path / "cifar", 9), 4000, tmp_path / "images")


def test_a_row_keeps_what_the_run_says_of_itself():
    run = dict(method="moex", seed="40", epochs="60", seconds_per_epoch="9.5", threads="1", device="cpu", date="d")
    here = dict(threads="2", device="cpu", date="later", processor="P", commit="c", torch="t")
    expected = dict(labels="4000") | run | dict(seconds="570", processor="P", commit="c")
    assert cifar10.study_row(4000, run, here) == expected


def test_every_size_trains_for_about_as_many_steps():
    recipe = load_recipe(Path(cifar10.__file__).with_suffix(".yaml"))
    assert recipe.settings["epochs"] == cifar10.EPOCHS[4000]
    steps = {labels: labels // recipe.settings["batch_size"] * epochs for labels, epochs in cifar10.EPOCHS.items()}
    assert all(abs(count / steps[4000] - 1) < 0.04 for count in steps.values())
