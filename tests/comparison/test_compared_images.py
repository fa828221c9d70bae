"""The images of a comparison: a folder without a split, a test split, and each group held out in turn."""

import json

import pytest
from picture_folders import BLUE, RED, picture_recipe, write_groups, write_pictures

import timm_moex
from timm_moex.comparison.plan import hold_out_images
from timm_moex.training.recipe import RecipeError


def quiet(line):
    pass


def test_a_folder_without_a_split_has_a_fifth_held_out_by_a_fixed_draw(tmp_path):
    flat = write_pictures(tmp_path / "flat", {"x": RED, "y": BLUE}, count=10)
    recipe, notes = hold_out_images(picture_recipe(flat))
    assert recipe.settings["val_fraction"] == 0.2 and "no evaluation folder" in notes[0]
    split = write_pictures(tmp_path / "split", {"train/x": RED, "train/y": BLUE, "val/x": RED, "val/y": BLUE})
    for given in (picture_recipe(split), picture_recipe(flat, val_fraction=0.5)):
        assert hold_out_images(given) == (given, [])


def test_the_report_names_the_held_out_part_and_a_test_split_is_looked_at_once(tmp_path):
    folders = {f"{part}/{name}": colour for part in ("train", "test") for name, colour in (("x", RED), ("y", BLUE))}
    data = write_pictures(tmp_path / "data", folders, count=10)
    how = dict(methods=["baseline", "moex", "mine: moex_prob=1.0"], seeds=1, output=tmp_path / "out", log=quiet)
    recipe = picture_recipe(data, model_kwargs={"moex_prob": 0.5})
    first = timm_moex.compare(recipe, **how)
    assert "4 images of split validation (20% of each class, held out by a fixed draw)" in first.text
    tested = timm_moex.compare(recipe, test_split="test", **how)
    assert "Errors are measured on 20 images of split test" in tested.text
    assert "Warning: 2 methods were tested on 20 images of split test" in tested.text
    results = [tmp_path / "out" / name / "0" / "result.json" for name in ("baseline", "moex", "mine")]
    assert all(json.loads(path.read_text())["test"]["count"] == 20 for path in results)
    before = [path.stat().st_mtime_ns for path in results]
    timm_moex.compare(recipe, test_split="test", **how)
    assert [path.stat().st_mtime_ns for path in results] == before
    with pytest.raises(RecipeError, match="'train' is used twice"):
        timm_moex.compare(recipe, test_split="train", **how)


def test_each_group_is_held_out_in_turn(tmp_path):
    data = write_groups(tmp_path / "data", groups="AB", count=10)
    recipe = picture_recipe(data, group_folders=True, model_kwargs={"moex_preset": "mixstyle"}, donors_from="any")
    how = dict(methods=["baseline", "mixstyle"], seeds=1, output=tmp_path / "out", leave_one_out=True, log=quiet)
    result = timm_moex.compare(recipe, **how)
    assert list(result.figures) == ["A", "B", "mean over the groups"]
    for group in "AB":
        run = tmp_path / "out" / "mixstyle" / group / "0"
        found = json.loads((run / "result.json").read_text())
        assert found["test"]["count"] == 20 and f"held_out_group: {group}" in (run / "recipe.yaml").read_text()
        assert found["metrics"]["count"] == 4  # a fifth of the other group
    mean = result.figures["mean over the groups"]["mixstyle"]["0"].error
    assert mean == sum(result.figures[group]["mixstyle"]["0"].error for group in "AB") / 2
    assert "all images of the held-out group (A 20, B 20)" in result.text and "**B**" in result.text


def test_leaving_one_out_needs_groups_and_no_other_test(tmp_path):
    data = write_groups(tmp_path / "data", groups="AB")
    for recipe, words, message in (
        (picture_recipe(data), {}, "group_folders=true"),
        (picture_recipe(data, group_folders=True, held_out_group="A"), {}, "held_out_group is set"),
        (
            picture_recipe(data, group_folders=True),
            {"test_split": "test"},
            "the held-out groups are already the test data",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            timm_moex.compare(recipe, leave_one_out=True, output=tmp_path / "out", log=quiet, **words)
