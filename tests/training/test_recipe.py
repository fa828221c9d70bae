"""Recipes: strict reading, and the table of train.py's arguments."""

import json
import math
import os
import subprocess
import sys

import pytest
import yaml

from timm_moex.training.keys import Range, parse_range
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
        ({"opt_betas": [0.9, "much"]}, "opt_betas: 'much': expected a number, got str"),
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


WRONG_VALUES = {
    "hflip": (7, -0.1, math.nan),
    "reprob": (3,),
    "clip_grad": (-1, 0, math.inf),
    "crop_pct": (0, 87.5),
    "mixup": (-1, math.nan),
    "num_classes": (1, 0, -5),
    "batch_size": (0,),
    "validation_batch_size": (0,),
    "epochs": (0,),
    "lr": (-0.1, 0, math.nan, math.inf),
    "lr_noise_pct": (0,),  # timm would draw for ever
    "input_size": ([3, 0, 32],),
    "std": ([0.0], []),
    "scale": ([1.0, 0.1], [0.1], [0, 1]),
    "cutmix_minmax": ([0.2, 1.5],),
    "decay_milestones": ([20, 10],),
    "opt_betas": ([0.9, 1.0],),
    "smoothing": (1.0,),
    "drop": (1.0,),
    "seed": (-1, 2**32),
    "workers": (-1, 2**70),
}


@pytest.mark.parametrize("key", WRONG_VALUES)
def test_value_out_of_its_range_names_key_value_and_range(key):
    for value in WRONG_VALUES[key]:
        with pytest.raises(RecipeError, match=rf"^{key}: .*(expected|64 bits)") as caught:
            Recipe("x", {key: value})
        assert str(value)[:5] in str(caught.value)


def test_every_number_of_the_built_in_trainer_has_a_range_and_its_default_is_in_it():
    for key, row in stock_keys().items():
        if row.trainer != "stock" and row.type.rstrip("+3") in ("int", "float"):
            assert isinstance(row.values, Range), key
            assert Recipe("x", {key: row.default}).settings == {key: row.default}


def test_values_to_which_timm_gives_a_meaning_are_accepted():
    meant = dict(clip_grad=None, num_classes=None, crop_pct=1.0, hflip=0, mixup=0, warmup_epochs=0, workers=0, min_lr=0)
    meant |= dict(mean=[0.5], std=[0.1, 0.2, 0.3], lr_noise=[0.4], color_jitter=1.5, mixup_off_epoch=0, layer_decay=1)
    assert Recipe("x", meant).arguments().color_jitter == 1.5


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
        ("lr: 2026-13-45", "r.yaml: not readable as YAML: month"),
        ("lr: " + "9" * 5000, "r.yaml: not readable as YAML: .*digits"),
        ("lr: " + "[" * 5000, "r.yaml: not readable as YAML"),
    ):
        path.write_text(text)
        with pytest.raises(RecipeError, match=message):
            load_recipe(path)
    path.write_bytes(bytes(range(256)))
    with pytest.raises(RecipeError, match="r.yaml: not a text in UTF-8"):
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
    newer = ("loss", "task", "stop_epoch", "save_epochs")  # of timm 1.0.31, whose train.py the clone may be older than
    table = {key: row for key, row in stock_keys().items() if row.trainer != "built-in"}
    ours = {key: [row.type, row.default] for key, row in table.items() if key in theirs or key not in newer}
    assert ours == {key: row for key, row in theirs.items() if key not in newer} | {
        key: ours[key] for key in newer if key in theirs
    }
    assert {row.trainer for row in table.values()} == {"both", "stock"}
    assert not set(stock_keys()) - set(table) & set(theirs)


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


def test_range_that_is_spelled_otherwise_is_an_error():
    for text in ("0..1", "[0; 1]", "2 rising in [0, 1]"):
        with pytest.raises(ValueError, match="expected an interval"):
            parse_range(text)
