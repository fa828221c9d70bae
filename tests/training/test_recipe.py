"""Recipes: strict parsing, and the table of train.py's arguments."""

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
def test_packaged_recipe_works_in_both_trainers(name):
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


def test_keys_missing_in_the_recipe_have_stock_defaults():
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
        ({"model": 50}, "model: 50: expected a string"),
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


def test_scientific_numbers_that_yaml_reads_as_strings_are_numbers():
    recipe = Recipe("x", yaml.safe_load("lr: 1e-3\nweight_decay: 5E-4\nmin_lr: 1.0e3"))
    assert recipe.settings == {"lr": 1e-3, "weight_decay": 5e-4, "min_lr": 1000.0}
    assert Recipe("x", {"opt_betas": [0.9, "9.99e-1"]}).settings == {"opt_betas": [0.9, 0.999]}


def test_scientific_numbers_are_numbers_inside_mappings_and_lists_too(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "model_kwargs: {moex_eps: 1e-5, name: '1e-5'}\nopt_kwargs:\n  eps: -1E+3\nopt_betas: [9e-1, .5e0]\n"
    )
    recipe = load_recipe(path).override(["opt_kwargs.foo=1e-6"])
    assert recipe.settings == {
        "model_kwargs": {"moex_eps": 1e-5, "name": "1e-5"},
        "opt_kwargs": {"eps": -1000.0, "foo": 1e-6},
        "opt_betas": [0.9, 0.5],
    }


@pytest.mark.parametrize("text, number", [("010", 8), ("0x10", 16), ("0b11", 3), ("1_000", 1000), ("1:30", 90)])
def test_a_number_that_yaml_misreads_is_an_error(text, number, tmp_path):
    path = tmp_path / "r.yaml"
    for content in (f"epochs: {text}", f"model_kwargs: {{depth: {text}}}"):
        path.write_text(content)
        with pytest.raises(RecipeError, match=f"r.yaml: line 1: YAML reads {text} as {number}; write {number}"):
            load_recipe(path)
    with pytest.raises(RecipeError, match=f"--set epochs={text}: line 1: YAML reads"):
        Recipe("x").override([f"epochs={text}"])


def test_merges_work_and_a_merged_key_may_be_overridden(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "model_kwargs: &a {moex_prob: 0.5, moex_lam: 0.9}\n"
        "opt_kwargs: &b {<<: *a, moex_lam: 0.7}\n"
        "<<: {lr: 0.1, epochs: 3}\n"
        "epochs: 5\n"
    )
    assert load_recipe(path).settings == {
        "model_kwargs": {"moex_prob": 0.5, "moex_lam": 0.9},
        "opt_kwargs": {"moex_prob": 0.5, "moex_lam": 0.7},
        "lr": 0.1,
        "epochs": 5,
    }
    path.write_text("<<: {lr: 0.1}\nlr: 1\nlr: 2\n")
    with pytest.raises(RecipeError, match="lr: given twice"):
        load_recipe(path)


@pytest.mark.parametrize("key, value", [("kd_model_name", "resnet18"), ("naflex_loader", True), ("data", "/images")])
def test_a_key_that_only_train_py_supports_is_an_error_that_says_so(key, value):
    recipe = Recipe("x", {key: value})
    with pytest.raises(RecipeError, match=f"the built-in trainer does not support {key}; remove it"):
        recipe.arguments()


def test_a_stock_key_at_its_default_is_accepted():
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
def test_a_value_that_the_trainer_does_not_support_is_an_error(settings, message):
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


def test_special_values_that_timm_supports_are_accepted():
    meant = dict(clip_grad=None, num_classes=None, crop_pct=1.0, hflip=0, mixup=0, warmup_epochs=0, workers=0, min_lr=0)
    meant |= dict(mean=[0.5], std=[0.1, 0.2, 0.3], lr_noise=[0.4], color_jitter=1.5, mixup_off_epoch=0, layer_decay=1)
    assert Recipe("x", meant).arguments().color_jitter == 1.5


# Key → (value, other settings without which it does nothing, what the error says)
IDLE = {
    "mixup_off_epoch": (5, {"cutmix": 1.0}, "without mixup, cutmix or cutmix_minmax"),
    "mixup_switch_prob": (0.3, {"mixup": 0.2, "cutmix": 1.0}, "without mixup"),
    "model_ema_decay": (0.99, {"model_ema": True}, "without model_ema"),
    "torchcompile_mode": ("max-autotune", {"torchcompile": "inductor"}, "without torchcompile"),
    "clip_mode": ("agc", {"clip_grad": 1.0}, "without clip_grad"),
    "bce_target_thresh": (0.2, {"loss": "bce"}, "without bce_loss or loss: bce"),
    "opt_betas": ([0.9, 0.99], {"opt": "adamw"}, "with opt: sgd"),
    "momentum": (0.8, {}, "with opt: adamw"),
    "img_size": (64, {}, r"with input_size: \[3, 32, 32\]"),
    "lr_base": (0.2, {}, "with lr: 0.5"),
    "decay_milestones": ([3], {"sched": "multistep"}, "without sched: multistep"),
    "warmup_lr": (1e-4, {"warmup_epochs": 1}, "without warmup_epochs"),
    "amp_dtype": ("bfloat16", {"amp": True}, "without amp"),
    "recount": (2, {"reprob": 0.5}, "without reprob"),
    "hflip": (0.1, {}, "with no_aug: True"),
    "pad": (2, {"in_memory": True}, "without in_memory"),
    "wandb_project": ("pets", {"log_wandb": True}, "without log_wandb"),
}
MAKES_IDLE = {"momentum": {"opt": "adamw"}, "img_size": {"input_size": [3, 32, 32]}, "lr_base": {"lr": 0.5}}
MAKES_IDLE |= {"hflip": {"no_aug": True}}


@pytest.mark.parametrize("key", IDLE)
def test_a_key_that_does_nothing_is_an_error_that_says_what_it_needs(key):
    value, needed, message = IDLE[key]
    idle = {"warmup_epochs": 0, **MAKES_IDLE.get(key, {}), key: value}
    with pytest.raises(RecipeError, match=f"{key}: .* has no effect {message}"):
        Recipe("x", idle).arguments()
    with pytest.raises(RecipeError, match=f"{key}: .* has no effect {message}"):
        Recipe("x", {k: v for k, v in idle.items() if k != key}).override(**{key: value}).arguments()
    if needed:
        assert getattr(Recipe("x", idle | needed).arguments(), key) == value
    assert key not in Recipe("x", idle).effective_settings()


def test_every_need_names_keys_and_a_key_at_its_default_is_not_an_error():
    for key, row in stock_keys().items():
        for term in row.needs.replace(" and ", " or ").split(" or "):
            name = term.removeprefix("not ").partition("=")[0]
            assert not term or name in stock_keys() or name in ("opt.has_eps", "opt.has_betas", "opt.has_momentum"), key
        assert row.trainer == "stock" or Recipe("x", {key: row.default}).arguments()


def test_what_the_user_did_not_write_or_switched_off_himself_may_be_idle(tmp_path):
    packaged = load_recipe("finetune").override(["amp=false", "warmup_epochs=0"]).arguments()
    assert (packaged.amp, packaged.amp_dtype, packaged.warmup_lr) == (False, "bfloat16", 1e-6)
    path = tmp_path / "mine.yaml"
    path.write_text("model_ema: true\nmodel_ema_decay: 0.99\n")
    assert load_recipe(path).override(["model_ema=false"]).arguments().model_ema_decay == 0.99
    path.write_text("model_ema_decay: 0.99\n")
    assert load_recipe(path).override(["model_ema=true"]).arguments().model_ema_decay == 0.99
    with pytest.raises(RecipeError, match="recipe mine: model_ema_decay: 0.99 has no effect"):
        load_recipe(path).override(["epochs=3"]).arguments()


@pytest.mark.parametrize("name", packaged_recipes())
def test_nothing_in_a_packaged_recipe_is_idle(name):
    assert load_recipe(str(packaged_recipes()[name])).arguments()


def test_override_reads_yaml_and_reaches_into_mappings():
    recipe = Recipe("x", {"model_kwargs": {"moex_prob": 0.5, "moex_norm": "in"}, "lr": 0.1})
    words = ["lr=2e-1", "model_kwargs.moex_prob=0", "mean=[0.5]", "amp=true"]
    changed = recipe.override(words, device="cpu", epochs=None)
    assert changed.settings == {
        "model_kwargs": {"moex_prob": 0, "moex_norm": "in"},
        "lr": 0.2,
        "mean": [0.5],
        "amp": True,
        "device": "cpu",
    }
    assert recipe.settings["lr"] == 0.1 and recipe.settings["model_kwargs"]["moex_prob"] == 0.5
    for twice in (["lr=0.1", "lr=0.2"], ["model_kwargs.a=1", "model_kwargs.a=2"]):
        with pytest.raises(RecipeError, match=f"--set {twice[1]}: .* is given twice"):
            recipe.override(twice)
    with pytest.raises(RecipeError, match="--set device=cuda: device is given twice"):
        recipe.override(["device=cuda"], device="cpu")
    for wrong, message in (("lr", "expected key=value"), ("lr.x=1", "lr is not a mapping"), ("lrr=1", "unknown key")):
        with pytest.raises(RecipeError, match=message):
            recipe.override([wrong])


def test_loading_says_what_is_wrong_with_the_file(tmp_path):
    path = tmp_path / "r.yaml"
    for text, message in (
        ("lr: 0.1\nlr: 0.2", "lr: given twice"),
        ("- lr", "expected a mapping"),
        ("lr: [", "not valid YAML"),
        ("", "expected a mapping"),
        ("lr: 2026-13-45", "r.yaml: not valid YAML: month"),
        ("lr: " + "9" * 5000, "r.yaml: not valid YAML: .*digits"),
        ("lr: " + "[" * 5000, "r.yaml: not valid YAML"),
    ):
        path.write_text(text)
        with pytest.raises(RecipeError, match=message):
            load_recipe(path)
    path.write_bytes(bytes(range(256)))
    with pytest.raises(RecipeError, match="r.yaml: not valid UTF-8"):
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
        [sys.executable, "-c", LIST_ARGUMENTS],
        cwd=clone,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": clone},
    )
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


def test_a_set_option_that_is_not_yaml_is_named():
    with pytest.raises(RecipeError, match=r"--set lr=\[1: not valid YAML"):
        Recipe("x", {}).override(["lr=[1"])


def test_range_that_is_spelled_otherwise_is_an_error():
    for text in ("0..1", "[0; 1]", "2 rising in [0, 1]"):
        with pytest.raises(ValueError, match="expected an interval"):
            parse_range(text)
