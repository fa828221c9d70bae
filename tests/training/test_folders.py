"""Folders of images: splits, groups, and classes matched by name."""

import os
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch
from picture_folders import BLUE, GREEN, RED, picture_recipe, write_groups, write_pictures
from timm.data import resolve_data_config

from timm_moex import MoExTask
from timm_moex.cli import main
from timm_moex.training import loop
from timm_moex.training.datasets import DataError, group_names, label_names, open_dataset
from timm_moex.training.distributed import Processes
from timm_moex.training.evaluate import evaluate, flat_metrics
from timm_moex.training.inference import open_inference
from timm_moex.training.loaders import create_loaders
from timm_moex.training.recipe import RecipeError

CPU = torch.device("cpu")


def names_of(dataset):
    return [Path(path).relative_to(dataset.reader.root).as_posix() for path, _ in dataset.reader.samples]


def run(capsys, *words):
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# Splits


@pytest.mark.parametrize("layout", ["flat", "train"])
def test_val_fraction_divides_every_class_and_loses_nothing(tmp_path, layout):
    root = write_pictures(tmp_path / ("train" if layout == "train" else ""), {"cat": RED, "dog": BLUE}, count=10)
    (root / "dog" / "0.png").rename(root / "dog" / "zero.png")
    parts = [open_dataset("", tmp_path, split, val_fraction=0.2) for split in ("train", "validation")]
    assert [Counter(target for _, target in part) for part in parts] == [{0: 8, 1: 8}, {0: 2, 1: 2}]
    assert not set(names_of(parts[0])) & set(names_of(parts[1]))
    assert sorted(names_of(parts[0]) + names_of(parts[1])) == sorted(names_of(open_dataset("", root, "")))


def test_the_division_depends_on_nothing_but_the_paths(tmp_path, monkeypatch):
    first = names_of(
        open_dataset("", write_groups(tmp_path / "a", "xyz", count=20), "val", group_folders=True, val_fraction=0.3)
    )
    walk = os.walk

    def backwards(*args, **kwargs):
        for parent, folders, files in walk(*args, **kwargs):
            yield parent, folders, files[::-1]

    monkeypatch.setattr("os.walk", backwards)
    torch.manual_seed(7)
    moved = open_dataset(
        "", write_groups(tmp_path / "b" / "c", "xyz", count=20), "val", group_folders=True, val_fraction=0.3
    )
    assert names_of(moved) == first
    without = open_dataset("", tmp_path / "a", "val", group_folders=True, val_fraction=0.3, held_out_group="y")
    assert names_of(without) == [name for name in first if not name.startswith("y/")]


def test_the_smallest_classes_stay_in_training(tmp_path):
    write_pictures(tmp_path, {"one": RED}, count=1)
    write_pictures(tmp_path, {"two": BLUE}, count=2)
    parts = [open_dataset("", tmp_path, split, val_fraction=0.01) for split in ("train", "val")]
    assert [Counter(target for _, target in part) for part in parts] == [{0: 1, 1: 1}, {1: 1}]
    assert label_names(parts[1]) == ["one", "two"]  # the labels are those of the whole folder


def test_a_folder_without_splits_needs_a_fraction_for_training(tmp_path):
    write_pictures(tmp_path, {"cat": RED, "dog": BLUE})
    for split in ("train", "validation"):
        with pytest.raises(
            DataError, match="no folder .*; found cat, dog. If these are classes, set val_fraction: 0.2"
        ):
            open_dataset("", tmp_path, split)
    with pytest.raises(DataError, match="no folder 'tset'"):
        open_dataset("", tmp_path, "tset")
    write_pictures(tmp_path / "split" / "train", {"cat": RED})
    with pytest.raises(DataError, match="no folder 'validation'.*found train; set val_fraction: 0.2"):
        open_dataset("", tmp_path / "split", "validation")


def test_a_fraction_next_to_a_folder_for_evaluation_is_an_error(tmp_path):
    write_pictures(tmp_path, {"train/cat": RED, "val/cat": RED})
    for split in ("train", "validation"):
        with pytest.raises(DataError, match="val_fraction=0.2, but .* has an evaluation folder, val;"):
            open_dataset("", tmp_path, split, val_fraction=0.2)
    with pytest.raises(DataError, match="splits the data into train and validation; split='test' is neither"):
        open_dataset("", tmp_path, "test", val_fraction=0.2)
    with pytest.raises(DataError, match="only a folder of images supports val_fraction: 0.2"):
        open_dataset("torch/cifar10", tmp_path, "train", val_fraction=0.2)


# Groups


def loaders(recipe, pad=None, processes=None):
    args = recipe.override(in_memory=pad is not None, pad=pad).arguments()
    config = resolve_data_config(vars(args))
    return create_loaders(args, config, processes or Processes(CPU), torch.float32)


@pytest.mark.parametrize("pad, workers, prefetcher", [(None, 0, True), (None, 2, True), (None, 0, False), (2, 0, True)])
def test_batches_have_the_group_of_each_picture(tmp_path, pad, workers, prefetcher):
    colours = {"A/x": (10, 0, 0), "A/y": (50, 0, 0), "B/x": (90, 0, 0), "B/y": (130, 0, 0), "C/x": (0, 0, 0)}
    write_pictures(tmp_path, colours, count=6)
    settings = dict(group_folders=True, val_fraction=0.5, held_out_group="C", mean=[0.0], std=[1.0], hflip=0.0)
    recipe = picture_recipe(tmp_path, workers=workers, no_prefetcher=not prefetcher, **settings)
    for loader in loaders(recipe, pad):
        assert group_names(loader.dataset) == ["A", "B"] and label_names(loader.dataset) == ["x", "y"]
        seen = 0
        for images, target, groups in loader:
            assert target.dtype == groups.dtype == torch.int64
            red = images[:, 0, 16, 16].mul(255).round()
            assert torch.equal(red, (10 + 40 * target + 80 * groups).float())
            seen += len(target)
        assert seen == 12


def test_a_picture_that_replaces_an_unreadable_one_keeps_its_own_group(tmp_path):
    write_groups(tmp_path, "AB", "x", count=1)
    (tmp_path / "A" / "x" / "0.png").write_bytes(b"")
    dataset = open_dataset("", tmp_path, "", group_folders=True, unreadable="replace")
    assert [target for _, target in dataset] == [1, 1]  # class 0 of 1, group 1


def test_the_held_out_group_is_in_neither_part(tmp_path):
    write_groups(tmp_path)
    common = dict(group_folders=True, val_fraction=0.2, held_out_group="B")
    for split in ("train", "val"):
        dataset = open_dataset("", tmp_path, split, **common)
        assert group_names(dataset) == ["A", "C"] and not [name for name in names_of(dataset) if "B/" in name]
    alone = open_dataset("", tmp_path, "", group_folders=True, only_group="B")
    assert group_names(alone) == ["B"] and len(alone) == 10
    write_groups(tmp_path / "split" / "train")
    write_groups(tmp_path / "split" / "val", count=2)
    both = open_dataset("", tmp_path / "split", "", group_folders=True, only_group="B")
    assert len(both) == 14  # of every split


def test_what_is_wrong_with_groups_is_named(tmp_path):
    write_groups(tmp_path)
    common = dict(val_fraction=0.2, group_folders=True)
    with pytest.raises(DataError, match="held_out_group: 'D' is not a group in .* A, B, C"):
        open_dataset("", tmp_path, "train", held_out_group="D", **common)
    with pytest.raises(DataError, match="held_out_group: 'A' needs group_folders"):
        open_dataset("", tmp_path, "train", val_fraction=0.2, held_out_group="A")
    with pytest.raises(DataError, match="would both become class 'x'.*group_folders: true"):
        open_dataset("", tmp_path, "train", val_fraction=0.2)
    with pytest.raises(RecipeError, match="donors_from.*group_folders"):
        loaders(picture_recipe(tmp_path / "A", val_fraction=0.2, donors_from="other_groups"))
    write_groups(tmp_path / "two", "AB")
    one = picture_recipe(tmp_path / "two", held_out_group="A", **common)
    with pytest.raises(
        DataError,
        match="donors from other groups need at least two groups, but .* has only B for training; set donors_from",
    ):
        loaders(one)
    assert loaders(one.override(donors_from="any"))
    write_pictures(tmp_path / "two", {"loose": RED})
    with pytest.raises(DataError, match=r"loose.0.png has no group, because it is not in GROUP/CLASS/"):
        loaders(one)


@pytest.mark.parametrize("donors_from, expected", [(None, True), ("other_groups", True), ("any", False)])
def test_the_task_gets_the_groups_if_donors_come_from_others(tmp_path, monkeypatch, donors_from, expected):
    data = write_groups(tmp_path / "data", "AB")
    recipe = picture_recipe(data, group_folders=True, val_fraction=0.2, model_kwargs={"moex_prob": 1.0})
    seen, forward = [], MoExTask.forward

    def record(self, images, target, groups=None):
        seen.append(groups)
        return forward(self, images, target)

    monkeypatch.setattr(MoExTask, "forward", record)
    loop.train(recipe.override(donors_from=donors_from), tmp_path / "run", progress=False)
    steps = seen[-4:]  # before them the set-up tries a step
    assert len(seen) >= 4 and all((groups is not None) == expected for groups in steps)
    if expected:
        assert {int(group) for groups in steps for group in groups} == {0, 1}


def test_top1_by_group_is_counted_and_combined():
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    batch = (logits, torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 0, 2]))
    names = ["A", "empty", "C"]
    whole = evaluate(torch.nn.Identity(), [batch], "cpu", groups=names)
    assert whole["top1_by_group"] == {"A": pytest.approx(200 / 3), "C": 100.0} and whole["top1"] == 75
    halves = [[tuple(part[rows] for part in batch)] for rows in (slice(None, None, 2), slice(1, None, 2))]
    sums = []
    for half in halves:
        evaluate(torch.nn.Identity(), half, "cpu", groups=names, gather=lambda own: sums.append(own) or [own])
    combined = evaluate(torch.nn.Identity(), halves[0], "cpu", groups=names, gather=lambda own: sums)
    assert combined | {"loss": 0} == whole | {"loss": 0} and combined["loss"] == pytest.approx(whole["loss"])
    assert flat_metrics(combined)["top1_by_group.C"] == 100.0


def test_a_run_with_groups_ends_with_top1_of_each_and_the_held_out_group_opens_alone(tmp_path, capsys):
    data = write_groups(tmp_path / "data")
    recipe = picture_recipe(data, group_folders=True, val_fraction=0.2, held_out_group="B")
    result = loop.train(recipe, tmp_path / "run", log=print, progress=False)
    assert set(result.metrics["top1_by_group"]) == {"A", "C"}
    assert "eval_top1_by_group.A" in (tmp_path / "run" / "summary.csv").read_text()
    whole = dict(split="", group_folders=True)
    opened = open_inference(str(tmp_path / "run" / "hub"), data, only_group="B", **whole)
    metrics = evaluate(opened.model, opened.loader, opened.device, groups=opened.groups)
    assert metrics["count"] == 10 and set(metrics["top1_by_group"]) == {"B"}
    code, out, err = run(capsys, "eval", tmp_path / "run" / "hub", "--data-dir", data, "--group-folders")
    assert code == 0 and "30 images; top-1 by group: A " in out, err
    with pytest.raises(DataError, match="only_group: 'b' is not a group in .*; its groups are A, B, C"):
        open_inference(str(tmp_path / "run" / "hub"), data, only_group="b", **whole)
    resumed = loop.train(recipe.override(resume="auto", epochs=1), tmp_path / "run", log=print, progress=False)
    assert resumed.metrics == result.metrics


# Command line


def test_train_eval_and_predict_take_a_folder_without_splits(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_pictures(tmp_path / "data", {"cat": RED, "dog": BLUE}, count=10)
    hub = timm_hub(tmp_path, ["dog", "cat"])
    assert "20 images" in run(capsys, "eval", hub, "--data-dir", data)[1]
    assert "4 images" in run(capsys, "eval", hub, "--data-dir", data, "--val-fraction", "0.2")[1]
    assert run(capsys, "predict", hub, "--data-dir", data, "--val-fraction", "0.2")[0] == 0
    for wrong in ("0", "1", "x"):
        with pytest.raises(SystemExit):
            main(["eval", str(hub), "--data-dir", str(data), "--val-fraction", wrong])
        assert f"--val-fraction: {wrong!r}" in (err := capsys.readouterr().err) or f"--val-fraction: {wrong}" in err


def timm_hub(tmp_path, names, **kwargs):
    from timm_moex.hub import save_folder

    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=len(names), **kwargs)
    config = resolve_data_config({"input_size": (3, 32, 32)})
    return save_folder(model, tmp_path / "hub", config, label_names=names)


# Classes by name


def test_labels_are_the_models_whatever_the_order_of_the_folders(tmp_path, capsys):
    data = write_pictures(tmp_path / "data", {"cat": RED, "dog": GREEN, "fox": BLUE})
    hub = timm_hub(tmp_path, ["fox", "cat", "dog"])
    opened = open_inference(str(hub), data)
    assert [int(y) for y in opened.loader.dataset.reader.class_to_idx.values()] == [0, 1, 2]
    assert opened.class_names == ["fox", "cat", "dog"]
    targets = torch.cat([target for _, target in opened.loader])
    assert targets.tolist() == [1] * 5 + [2] * 5 + [0] * 5
    by_order = open_inference(str(hub), data, ignore_label_names=True)
    assert by_order.class_names == ["cat", "dog", "fox"]


def test_other_classes_are_listed_and_missing_ones_harmless(tmp_path, capsys):
    write_pictures(tmp_path / "fewer", {"cat": RED, "fox": BLUE})
    write_pictures(tmp_path / "other", {"cat": RED, "fox": BLUE, "zebra": GREEN})
    hub = timm_hub(tmp_path, ["cat", "dog", "fox"])
    assert [int(y) for _, y in open_inference(str(hub), tmp_path / "fewer").loader.dataset] == [0] * 5 + [2] * 5
    code, _, err = run(capsys, "eval", hub, "--data-dir", tmp_path / "other")
    assert code == 2 and "'zebra' and lacks 'dog'; use --ignore-label-names" in err
    assert run(capsys, "eval", hub, "--data-dir", tmp_path / "other", "--ignore-label-names")[0] == 0


def test_evaluation_during_training_has_the_classes_of_the_training_set(tmp_path):
    write_pictures(tmp_path / "train", {"cat": RED, "dog": GREEN, "fox": BLUE})
    write_pictures(tmp_path / "val", {"cat": RED, "fox": BLUE})
    recipe = picture_recipe(tmp_path, num_classes=3)
    assert [int(y) for _, y in loaders(recipe)[1].dataset] == [0] * 5 + [2] * 5
    write_pictures(tmp_path / "val", {"zebra": GREEN})
    with pytest.raises(DataError, match="val has classes that were not in training: 'zebra' and lacks 'dog'"):
        loaders(recipe)


def test_a_class_map_reaches_eval_through_hub(tmp_path, capsys):
    data = write_pictures(tmp_path / "data", {"train/1": RED, "train/2": GREEN, "train/10": BLUE}, count=16)
    write_pictures(data, {"val/1": RED, "val/2": GREEN, "val/10": BLUE})
    (tmp_path / "map.txt").write_bytes("\ufeff10\r\n2\r\n1\r\n\r\n".encode())
    recipe = picture_recipe(data, num_classes=3, class_map=str(tmp_path / "map.txt"), lr=0.02)
    result = loop.train(recipe, tmp_path / "run", log=print, progress=False)
    hub = tmp_path / "run" / "hub"
    assert f"top-1 {result.metrics['top1']:.2f}" in run(capsys, "eval", hub, "--data-dir", data)[1]
    opened = open_inference(str(hub), data)
    assert opened.class_names == ["10", "2", "1"]
    assert [int(y) for _, y in opened.loader.dataset] == [2] * 5 + [1] * 5 + [0] * 5


def test_the_held_out_group_may_be_missing_in_the_folder_for_evaluation(tmp_path):
    write_groups(tmp_path / "train", "ABC")
    write_groups(tmp_path / "val", "AB")
    recipe = picture_recipe(tmp_path, group_folders=True, held_out_group="C")
    assert [group_names(loader.dataset) for loader in loaders(recipe)] == [["A", "B"], ["A", "B"]]
    with pytest.raises(DataError, match="held_out_group: 'Cc'"):
        loaders(recipe.override(held_out_group="Cc"))


def test_a_tar_file_is_mapped_by_name_too(tmp_path):
    write_pictures(tmp_path / "data", {"cat": RED, "dog": GREEN}, count=2)
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        tar.add(tmp_path / "data", "")
    assert label_names(open_dataset("", tmp_path / "data.tar", "")) == ["cat", "dog"]
    mapped = open_dataset("", tmp_path / "data.tar", "", classes=["dog", "fox", "cat"])
    assert [int(y) for _, y in mapped] == [2, 2, 0, 0]
    with pytest.raises(DataError, match="only a folder of images supports val_fraction"):
        open_dataset("", tmp_path / "data.tar", "train", val_fraction=0.5)


def test_a_class_map_of_labels_that_leave_gaps_is_refused(tmp_path):
    write_pictures(tmp_path, {"train/cat": RED, "train/dog": GREEN})
    for labels in ({"cat": 0, "dog": 5}, {"cat": 1, "dog": 1}, {"cat": -1, "dog": 0}):
        with pytest.raises(DataError, match="class_map: expected the labels 0 to 1, each once"):
            open_dataset("", tmp_path, "train", class_map=labels)
