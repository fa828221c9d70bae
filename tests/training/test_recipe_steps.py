"""Every packaged recipe, including the paper's large ones, trains a few steps with both commands in its header.

The networks keep their depth and width, and the recipes their settings except `tiny_settings`. Stock train.py needs a
clone of timm, see test_stock_train.py. The slowest tests run only with `pytest -m zoo`.
"""

import argparse
import csv
import inspect
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from tinydata import write_tiny

from timm_moex.cli import main
from timm_moex.insertion import moex as draw
from timm_moex.training import build, loaders
from timm_moex.training.datasets import DataError, open_dataset
from timm_moex.training.loop import train
from timm_moex.training.recipe import load_recipe, packaged_recipes

CLONE = os.environ.get("TIMM_MOEX_TIMM_CLONE")
# CIFAR-100's recipes differ from CIFAR-10's in the classes only.
HEAVY = {"cifar10_densenet_bc190"} | {
    f"cifar100_{net}" for net in ("densenet_bc190", "pyramidnet200", "resnext29", "wrn28_10")
}
DATASETS = sorted({load_recipe(name).settings.get("dataset", "") for name in packaged_recipes()})
RECIPES = [pytest.param(name, marks=pytest.mark.zoo if name in HEAVY else ()) for name in packaged_recipes()]
BATCH, STEPS = 2, 3


def alternating(draw, asked):
    """`draw_swap_index` that exchanges every other time unless `prob` is 1; records the probability in `asked`."""

    def draw_in_turn(batch_size, prob, generator, *, groups):
        asked.append(prob)
        return draw(batch_size, float(prob == 1 or len(asked) % 2), generator, groups=groups)

    return draw_in_turn


# The same inside train.py, which imports it through --device-modules.
COINS = (
    inspect.getsource(alternating)
    + """
import atexit
import json
from timm_moex.insertion import moex as draw
from timm_moex.task import task

asked = []
draw.draw_swap_index = alternating(draw.draw_swap_index, asked)
steps, forward = [], task.MoExTask.forward

def counted(self, *args, **kwargs):
    result = forward(self, *args, **kwargs)
    steps.append(result["exchanged"])
    return result

task.MoExTask.forward = counted
atexit.register(lambda: print("COUNTED", json.dumps([asked, steps]), flush=True))
"""
)


@pytest.fixture
def asked(monkeypatch):
    """The probabilities of the built-in trainer's draws, in order, without its trial step."""
    noted, trial = [], build.try_first_step

    def trial_unnoted(*args):
        trial(*args)
        noted.clear()

    monkeypatch.setattr(draw, "draw_swap_index", alternating(draw.draw_swap_index, noted))
    monkeypatch.setattr(build, "try_first_step", trial_unnoted)
    return noted


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A few images: a folder of noise in two classes, and the first ones of the Fashion-MNIST sample."""
    root = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", STEPS * BATCH), ("val", 3)):
        for n in range(count):
            folder = root / split / f"class{n % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(0, 256, (70, 80, 3), dtype=torch.uint8, generator=generator)
            Image.fromarray(pixels.numpy()).save(folder / f"{n}.png")
    return write_tiny(root, train=STEPS * BATCH, test=3)


@pytest.fixture
def folder(tmp_path):
    yield tmp_path
    shutil.rmtree(tmp_path)  # checkpoints of hundreds of megabytes, of which pytest would keep three runs


def tiny_settings(name, data, folder):
    """The only settings of the recipe that are changed."""
    settings = load_recipe(name).settings
    tiny = dict(data_dir=str(data), device="cpu", workers=0, batch_size=BATCH, epochs=1)
    if "lr" in settings:  # it belongs to the recipe's batch size
        tiny |= dict(lr=settings["lr"] * BATCH / settings["batch_size"])
    if settings.get("dataset") != "torch/fashion_mnist":
        # CIFAR's own files have checksums, so its nets get the folder too; what classes the folder lacks are listed.
        classes = folder / "classes.txt"
        classes.write_text("\n".join(f"class{n}" for n in range(settings.get("num_classes", 37))))  # 37: a header's
        tiny |= dict(dataset="", class_map=str(classes))
    if "dataset" not in settings:
        tiny |= dict(input_size=[3, 64, 64])
    if settings.get("pretrained"):  # in place of timm's Hub, other weights of the same net
        tiny |= dict(pretrained_path=str(folder / "pretrained.safetensors"))
        torch.manual_seed(1)
        save_file(plain_model(settings).state_dict(), tiny["pretrained_path"])
    if "initial_checkpoint" in settings:  # written by a script that needs the network
        tiny |= dict(initial_checkpoint=str(folder / "initial.safetensors"))
        torch.manual_seed(1)
        save_file(plain_model(settings, settings["num_classes"]).state_dict(), tiny["initial_checkpoint"])
    return tiny


def plain_model(settings, num_classes=None):
    name = settings["model"].removeprefix("moex_").partition(".")[0]
    return timm.create_model(name, num_classes=num_classes, in_chans=settings.get("in_chans", 3))


def header_command(name, program):
    """The arguments after `program` in the recipe's header."""
    lines = packaged_recipes()[name].read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("#  ") and program in line]
    return shlex.split(line.partition(program)[2], comments=True)


def assert_trained(name, tiny, folder, args, asked):
    """Check the keys, the probability of the draws, and that the model learnt; return (row, weights)."""
    settings = load_recipe(name).settings
    for key, value in (settings | tiny).items():
        assert args[key] == value, key
    prob = settings["model_kwargs"]["moex_prob"]
    assert asked == ([prob] * STEPS if prob else [])
    row = read_row(folder)
    assert 0 < float(row["train_loss"]) < 20 and math.isfinite(float(row["eval_loss"]))
    with torch.serialization.safe_globals([argparse.Namespace]):
        checkpoint = torch.load(folder / "last.pth.tar", weights_only=True)
    assert checkpoint["optimizer"]["state"] and ("state_dict_ema" in checkpoint) == settings.get("model_ema", False)
    weights = checkpoint.get("state_dict_ema", checkpoint["state_dict"])
    if start := tiny.get("pretrained_path") or tiny.get("initial_checkpoint"):  # a warm-up's first steps are small
        start = load_file(start)
        stem = next(key for key in weights if weights[key].ndim == 4)
        assert 0 < (weights[stem] - start[stem]).abs().max() < 1e-3
    return row, weights


def read_row(folder):
    with (folder / "summary.csv").open() as file:
        (row,) = csv.DictReader(file)
    return row


def exchanges(asked):
    """Number of exchanges of `alternating`: every batch if prob is 1, else the first, the third …"""
    return sum(prob == 1 or n % 2 == 0 for n, prob in enumerate(asked))


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_trains_in_the_built_in_trainer(name, data, folder, asked):
    tiny = tiny_settings(name, data, folder)
    words = [word for word in header_command(name, "timm-moex train") if word != "--set"]
    command = ["train", *(word for word in words if "=" not in word), "--output", str(folder / "run")]
    overrides = [word for word in words if "=" in word and word.partition("=")[0] not in tiny]
    overrides += [f"{key}={value!r}" for key, value in tiny.items()]
    assert main([*command, "--data-dir", str(data), "--set", *overrides]) == 0

    args = torch.load(folder / "run" / "last.pth.tar", weights_only=True)["args"]
    row, weights = assert_trained(name, tiny, folder / "run", args, asked)
    assert float(row.get("train_exchanged", 0)) == pytest.approx(exchanges(asked) / STEPS)
    hub = timm.create_model(f"local-dir:{folder / 'run' / 'hub'}", pretrained=True)
    assert all(torch.equal(value, weights[key]) for key, value in hub.state_dict().items())


@pytest.mark.skipif(not CLONE, reason="no train.py: TIMM_MOEX_TIMM_CLONE names no clone of timm")
@pytest.mark.parametrize("name", packaged_recipes())
def test_recipe_trains_in_stock_train_py_as_in_the_built_in_trainer(name, data, folder, asked, monkeypatch):
    """Equal to the last digit if the built-in trainer orders and augments images with the global generator."""
    tiny = tiny_settings(name, data, folder)
    (folder / "alternating_coins.py").write_text(COINS)
    shutil.copy(Path(CLONE) / "train.py", folder)
    shutil.copy(packaged_recipes()[name], folder)
    command = [sys.executable, "train.py", *header_command(name, "train.py"), "--output", ".", "--experiment", "run"]
    command += ["--device-modules", "timm_moex.plugin", "alternating_coins"]
    for key, value in tiny.items():
        command += [f"--{key.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    mixes = bool(load_recipe(name).settings.get("mixup"))
    command += ["--no-prefetcher"] * mixes  # train.py's prefetcher mixes bytes, which rounds
    env = os.environ | {"OMP_NUM_THREADS": "1"}  # as here
    done = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr

    counted = next(line for line in done.stdout.splitlines() if line.startswith("COUNTED"))
    tossed, steps = json.loads(counted.removeprefix("COUNTED"))
    args = yaml.safe_load((folder / "run" / "args.yaml").read_text())
    modules = dict(device_modules=["timm_moex.plugin", "alternating_coins"])
    row, weights = assert_trained(name, tiny | modules, folder / "run", args, tossed)
    assert len(steps) == len(tossed) and sum(steps) == exchanges(tossed)
    plain_model(load_recipe(name).settings, args["num_classes"]).load_state_dict(weights)

    monkeypatch.setattr(loaders, "_with_own_generator", lambda loader, seed: loader)
    monkeypatch.setattr(loaders, "SeededLoader", lambda loader: loader)
    recipe = load_recipe(name).override(**tiny, num_classes=args["num_classes"], no_prefetcher=mixes)
    train(recipe, folder / "built-in", log=lambda line: None, progress=False)
    ours = read_row(folder / "built-in")
    assert {key: float(ours[key]) for key in row} == {key: float(row[key]) for key in row}


@pytest.mark.parametrize("dataset", DATASETS)
def test_dataset_of_a_recipe_is_one_that_timm_knows(dataset, tmp_path):
    with pytest.raises(DataError, match="not found|no folder"):
        open_dataset(dataset, tmp_path, "train")
    if dataset:
        with pytest.raises(DataError, match="[Uu]nknown"):
            open_dataset(dataset + "x", tmp_path, "train")
