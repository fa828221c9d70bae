"""timm's own train.py, unmodified, with MoEx through `--device-modules timm_moex.plugin`.

Needs a clone of timm, whose train.py is not on PyPI:
`TIMM_MOEX_TIMM_CLONE=path pytest tests/integration/test_stock_train.py`.
"""

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

CLONE = os.environ.get("TIMM_MOEX_TIMM_CLONE")
pytestmark = pytest.mark.skipif(not CLONE, reason="no train.py: TIMM_MOEX_TIMM_CLONE names no clone of timm")
PLUGIN = ("--device-modules", "timm_moex.plugin", "count_exchanges")
COUNTER = """
import atexit
import timm
from timm_moex import MoExTask
steps, forward = [], MoExTask.forward

def counted(self, input, target):
    result = forward(self, input, target)
    steps.append(len(result["sites"]))
    return result

MoExTask.forward = counted
atexit.register(lambda: print(f"COUNTED {sum(steps)} exchanges in {len(steps)} steps, {timm.__file__}", flush=True))
"""

MOMENTS = """
import atexit
import torch
from timm_moex import MomentExchange
seen = []
hook = lambda module, args, output: seen.append(1) if isinstance(module, MomentExchange) else None
torch.nn.modules.module.register_module_forward_hook(hook)
atexit.register(lambda: print(f"EXCHANGED {len(seen)} times", flush=True))
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with 32 training and 8 validation noise images in two classes, and a module that counts exchanges."""
    root = tmp_path_factory.mktemp("stock")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 16), ("validation", 4)):
        for name in ("cat", "dog"):
            folder = root / "data" / split / name
            folder.mkdir(parents=True)
            for n in range(count):
                pixels = torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8, generator=generator)
                Image.fromarray(pixels.numpy()).save(folder / f"{n}.png")
    (root / "count_exchanges.py").write_text(COUNTER)
    shutil.copy(Path(CLONE) / "train.py", root / "train.py")
    return root


def train(workplace, experiment, *args, model="moex_resnet10t", script=None, fails=False):
    """Run train.py for one epoch of four steps; return (its output, its output folder)."""
    command = [sys.executable, str(script or workplace / "train.py"), str(workplace / "data"), "--model", model]
    command += "--num-classes 2 --img-size 32 -b 8 --epochs 1 --warmup-epochs 0 --lr 0.05 --log-interval 1".split()
    command += ["--device", "cpu", "-j", "1", "--output", str(workplace / "output"), "--experiment", experiment, *args]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(workplace), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=env, cwd=workplace, text=True, capture_output=True, timeout=900)
    printed = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, printed
    return printed, workplace / "output" / experiment


def exchanges(printed):
    found = re.search(r"COUNTED (\d+) exchanges in (\d+) steps", printed)
    return int(found[1]), int(found[2])


def assert_trained(printed, output, steps=4):
    assert "MoEx: prob=1.0, lam=0.9, stem" in printed
    assert exchanges(printed) == (steps, steps)
    with (output / "summary.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert 0 < float(row["train_loss"]) < 20 and float(row["eval_loss"]) > 0
    return float(row["train_loss"])


OPTIONS = {
    "plain": "",
    "amp": "--amp --amp-dtype bfloat16",
    "ema": "--model-ema --model-ema-decay 0.5",
    "accumulation": "--grad-accum-steps 2",
    "checkpointing": "--grad-checkpointing",
    "cutmix": "--cutmix 1.0",
    "bce": "--bce-loss --smoothing 0.1",
    "combined": "--amp --amp-dtype bfloat16 --model-ema --grad-accum-steps 2 --cutmix 1.0 --mixup 0.2 --bce-loss"
    " --bce-target-thresh 0.2 --channels-last --grad-checkpointing",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_stock_train_exchanges_with(option, workplace):
    printed, output = train(workplace, option, *PLUGIN, *OPTIONS[option].split())
    assert_trained(printed, output)


def test_stock_train_exchanges_when_compiled(workplace):
    printed, output = train(workplace, "compiled", *PLUGIN, "--torchcompile", model="moex_test_resnet")
    assert_trained(printed, output)


def test_stock_train_runs_from_the_clone_on_the_clones_timm(workplace):
    script = Path(CLONE) / "train.py"
    printed, output = train(workplace, "clone", *PLUGIN, *OPTIONS["combined"].split(), script=script)
    assert_trained(printed, output)
    assert f", {Path(CLONE).resolve()}/timm/" in printed


def test_settings_go_in_by_model_kwargs(workplace):
    settings = ["--model-kwargs", "moex_prob=0.0", "moex_layer=stage2"]
    printed, _ = train(workplace, "prob0", *PLUGIN, *settings)
    assert "MoEx: prob" not in printed and exchanges(printed) == (0, 0)
    settings = ["--model-kwargs", "moex_lam=0.5", "moex_layer=stage2", "moex_norm=in"]
    printed, _ = train(workplace, "settings", *PLUGIN, *settings)
    assert re.search("MoEx: prob=1.0, lam=0.5, stage2: .*norm='in'", printed) and exchanges(printed) == (4, 4)


def test_preset_exchanges_at_its_sites_and_keeps_the_labels(workplace):
    printed, output = train(workplace, "mixstyle", *PLUGIN, "--model-kwargs", "moex_preset=mixstyle", "moex_prob=1.0")
    assert "MoEx: prob=1.0, lam=1.0, preset='mixstyle', alpha=0.1, per_site=True" in printed
    assert exchanges(printed) == (12, 4)  # at three sites in each step
    with (output / "summary.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert 0 < float(row["train_loss"]) < 20


def test_lam_1_needs_no_plugin(workplace):
    (workplace / "count_moments.py").write_text(MOMENTS)
    modules = ("--device-modules", "timm_moex", "count_moments")
    printed, _ = train(workplace, "kept", *modules, "--model-kwargs", "moex_preset=mixstyle", "moex_prob=1.0")
    assert "EXCHANGED 12 times" in printed and "no moments are exchanged" not in printed


def test_probability_0_trains_as_plain_timm_to_the_digit(workplace):
    weights = []
    for model, args in (("resnet10t", ()), ("moex_resnet10t", (*PLUGIN, "--model-kwargs", "moex_prob=0.0"))):
        _, output = train(workplace, f"digit-{model}", *args, model=model)
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(output / "last.pth.tar", weights_only=True)
        weights.append((checkpoint["state_dict"], (output / "summary.csv").read_text()))
    assert weights[0][1] == weights[1][1]
    assert all(torch.equal(weights[0][0][name], weights[1][0][name]) for name in weights[0][0])


def test_preset_that_changes_with_the_epoch_is_refused(workplace):
    printed, _ = train(workplace, "off", *PLUGIN, "--model-kwargs", "moex_off_epoch=1", fails=True)
    assert "timm's train.py does not tell its task the epoch" in printed


def test_importing_the_plugin_twice_exchanges_once_per_step(workplace):
    twice = [PLUGIN[0], "timm_moex.plugin", *PLUGIN[1:]]
    printed, output = train(workplace, "twice", *twice)
    once = assert_trained(*train(workplace, "once", *PLUGIN))
    assert assert_trained(printed, output) == once


def test_a_model_without_moex_trains_bit_identically_with_the_plugin(workplace):
    weights = []
    for experiment, plugin in (("bare", ()), ("bare-plugin", PLUGIN)):
        printed, output = train(workplace, experiment, *plugin, model="resnet10t")
        assert "MoEx: prob" not in printed
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(output / "last.pth.tar", weights_only=True)
        weights.append((checkpoint["state_dict"], (output / "summary.csv").read_text()))
    assert weights[0][1] == weights[1][1]
    assert all(torch.equal(weights[0][0][name], weights[1][0][name]) for name in weights[0][0])


def test_distillation_of_a_model_that_exchanges_ends_with_the_named_error(workplace):
    printed, _ = train(workplace, "kd", *PLUGIN, "--kd-model-name", "resnet10t", fails=True)
    assert "TypeError: LogitDistillationTask cannot train a model with moex_prob=1.0" in printed


def test_torchscript_trains_the_bare_backbone(workplace):
    printed, _ = train(workplace, "script", *PLUGIN, "--torchscript")
    assert "MoEx: prob" not in printed and exchanges(printed) == (0, 0)
