"""Recipes: strict reading, and the table of train.py's arguments."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from timm_moex.training.recipe import Recipe, RecipeError, load_recipe, packaged_recipes, stock_keys


@pytest.mark.parametrize("name", packaged_recipes())
def test_packaged_recipe_serves_both_trainers(name):
    recipe = load_recipe(name)
    args = recipe.arguments()
    assert args.model.startswith("moex_") and recipe.settings["device_modules"] == ["timm_moex.plugin"]
    assert "data_dir" not in recipe.settings and "output" not in recipe.settings


@pytest.mark.parametrize("name", packaged_recipes())
def test_packaged_recipe_begins_with_its_commands_and_result(name):
    text = packaged_recipes()[name].read_text()
    header = "".join(line for line in text.splitlines(True) if line.startswith("#"))
    assert f"timm-moex train {name}" in header and "train.py --config" in header
    assert "Result" in header and ("Time" in header or "not run" in header)


def test_settings_keep_stock_defaults_where_the_recipe_is_silent():
    args = Recipe("x", {"model": "resnet18", "lr": 1}).arguments()
    assert (args.model, args.lr, args.opt, args.smoothing, args.scale) == ("resnet18", 1, "sgd", 0.1, [0.08, 1.0])
    assert args.weight_decay == 2e-5


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"bacth_size": 4}, "unknown key 'bacth_size'.*did you mean 'batch_size'"),
        ({"batch-size": 4}, "unknown key 'batch-size'.*did you mean 'batch_size'"),
        ({"batch_size": "4"}, "batch_size: '4': expected an integer, got str"),
        ({"batch_size": 4.0}, "batch_size: 4.0: expected an integer, got float"),
        ({"epochs": True}, "epochs: True: expected an integer, got bool"),
        ({"lr": "fast"}, "lr: 'fast': expected a number, got str"),
        ({"amp": 1}, "amp: 1: expected true or false"),
        ({"model": 50}, "model: 50: expected a text"),
        ({"model_kwargs": ["moex_prob=0.5"]}, "model_kwargs: .*expected a mapping"),
        ({"input_size": [28, 28]}, r"input_size: \[28, 28\]: expected 3 values, got 2"),
        ({"mean": 0.5}, r"mean: 0\.5: expected a list"),
        ({"opt_betas": [0.9, "9e-1"]}, "opt_betas: YAML reads 9e-1 in a list as a text; write 0.9"),
        ({"batch_size": None}, "batch_size: None: expected an integer"),
    ],
)
def test_wrong_key_or_type_names_key_and_value(settings, message):
    with pytest.raises(RecipeError, match=message):
        Recipe("x", settings)


def test_scientific_numbers_that_yaml_takes_for_texts_are_numbers():
    recipe = Recipe("x", yaml.safe_load("lr: 1e-3\nweight_decay: 5E-4\nmin_lr: 1.0e3"))
    assert recipe.settings == {"lr": 1e-3, "weight_decay": 5e-4, "min_lr": 1000.0}


@pytest.mark.parametrize("key, value", [("kd_model_name", "resnet18"), ("naflex_loader", True), ("data", "/images")])
def test_key_that_only_stock_serves_is_an_error_that_says_so(key, value):
    recipe = Recipe("x", {key: value})
    with pytest.raises(RecipeError, match=f"{key}: only timm's stock train.py serves"):
        recipe.arguments()


def test_stock_key_at_its_default_asks_for_nothing():
    assert Recipe("x", {"kd_model_name": None, "val_interval": 1}).arguments().epochs == 300


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"sched": "plateau"}, "sched: 'plateau'"),
        ({"sched": "cosin"}, "did you mean 'cosine'"),
        ({"amp_dtype": "bf16"}, "amp_dtype: 'bf16'.*'bfloat16'"),
        ({"epochs": 0}, "epochs: 0: expected at least 1"),
    ],
)
def test_value_that_the_trainer_cannot_serve_is_an_error(settings, message):
    with pytest.raises(RecipeError, match=message):
        Recipe("x", settings).arguments()


def test_override_reads_yaml_and_reaches_into_mappings():
    recipe = Recipe("x", {"model_kwargs": {"moex_prob": 0.5, "moex_norm": "in"}, "lr": 0.1})
    words = ["lr=2e-1", "model_kwargs.moex_prob=0", "mean=[0.5]", "amp=true"]
    changed = recipe.override(words, device="cpu", epochs=None)
    assert changed.settings == {
        "model_kwargs": {"moex_prob": 0, "moex_norm": "in"}, "lr": 0.2, "mean": [0.5], "amp": True, "device": "cpu",
    }  # fmt: skip
    assert recipe.settings["lr"] == 0.1 and recipe.settings["model_kwargs"]["moex_prob"] == 0.5
    for wrong, message in (("lr", "expected key=value"), ("lr.x=1", "lr is not a mapping"), ("lrr=1", "unknown key")):
        with pytest.raises(RecipeError, match=message):
            recipe.override([wrong])


def test_loading_says_what_is_wrong_with_the_file(tmp_path):
    path = tmp_path / "r.yaml"
    for text, message in (
        ("lr: 0.1\nlr: 0.2", "lr given twice"),
        ("- lr", "expected a mapping"),
        ("lr: [", "not readable as YAML"),
        ("", "expected a mapping"),
    ):
        path.write_text(text)
        with pytest.raises(RecipeError, match=message):
            load_recipe(path)
    with pytest.raises(RecipeError, match="no such file"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="expected the path of .* one of .*quickstart.*did you mean 'quickstart'"):
        load_recipe("quikstart")


# Prints train.py's arguments: {dest: [type, default]}, type as in stock_keys.yaml.
LIST_ARGUMENTS = """
import json, sys
sys.argv = ["train.py"]
import train
rows = {}
for action in train.parser._actions:
    name = type(action).__name__
    kind = {"ParseKwargs": "dict", "_StoreTrueAction": "bool"}.get(name) or (action.type or str).__name__
    many = "" if kind in ("dict", "bool") or action.nargs in (None, "?") else str(action.nargs)
    if name != "_HelpAction":
        rows[action.dest] = [kind + many, action.default]
print(json.dumps(rows))
"""


def test_table_equals_the_parser_of_a_timm_clone():
    clone = os.environ.get("TIMM_MOEX_TIMM_CLONE")
    if not clone:
        pytest.skip("TIMM_MOEX_TIMM_CLONE does not name a clone of timm")
    done = subprocess.run(
        [sys.executable, "-c", LIST_ARGUMENTS], cwd=clone, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": clone},
    )  # fmt: skip
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert {key: [row.type, row.default] for key, row in stock_keys().items()} == theirs
    assert {row.trainer for row in stock_keys().values()} == {"both", "stock"}


def test_a_few_lines_that_stand_for_gigabytes_give_a_short_message(tmp_path):
    levels = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 9)]
    path = tmp_path / "bomb.yaml"
    path.write_text("model_kwargs: {" + ", ".join(levels) + "}\nlr: *a8\n")
    with pytest.raises(RecipeError, match="^lr: .*expected a number") as caught:
        load_recipe(path)
    assert len(str(caught.value)) < 20_000


def test_set_that_is_no_yaml_is_named():
    with pytest.raises(RecipeError, match=r"--set lr=\[1: not readable as YAML"):
        Recipe("x", {}).override(["lr=[1"])
