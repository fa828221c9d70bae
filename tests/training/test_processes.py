"""Several processes, started by torchrun as a user starts them, on the CPU with gloo."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from timm.data.distributed_sampler import OrderedDistributedSampler
from tinydata import tiny_recipe, write_tiny

from timm_moex.training import loop, setup
from timm_moex.training.loop import train
from timm_moex.training.processes import Processes, join_processes
from timm_moex.training.setup import set_up_training

VIT = {"moex_prob": 0.0, "img_size": 28, "patch_size": 7}  # no batch norm: each process has its own statistics
PLAIN = {"model": "moex_test_vit", "model_kwargs": VIT, "drop": 0.0, "opt": "adamw", "lr": 1e-3}


@pytest.fixture
def data(tmp_path):
    return write_tiny(tmp_path / "data", train=49, test=21)


def start(recipe, folder: Path, *words: str, processes: int = 2) -> subprocess.Popen:
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe.settings))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*torchrun, "-m", "timm_moex", "train", str(path), "--output", str(folder), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path, data):
    """The crops and flips, too; the evaluation set is odd, so one share is filled up and must not count twice."""
    child = start(tiny_recipe(data, batch_size=8, epochs=2, **PLAIN), tmp_path / "two", "--in-memory")
    out, err = child.communicate(timeout=240)
    assert child.returncode == 0, err
    one = train(tiny_recipe(data, batch_size=16, epochs=2, **PLAIN), tmp_path / "one", in_memory=True, progress=False)
    for two, whole in zip(rows_of(tmp_path / "two"), rows_of(tmp_path / "one"), strict=True):
        assert (two["eval_count"], two["eval_top1"]) == ("21", whole["eval_top1"])
        for key in ("train_loss", "eval_loss", "lr"):
            assert float(two[key]) == pytest.approx(float(whole[key]), rel=1e-5)
    assert len(re.findall("^epoch", out, re.MULTILINE)) == 2  # one process speaks
    assert "2 x cpu" in (tmp_path / "two" / "hub" / "README.md").read_text(encoding="utf-8")
    assert "processes: 2" in (tmp_path / "two" / "recipe.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert one.metrics["count"] == 21


def test_a_killed_process_ends_the_other_and_the_run_goes_on_bit_for_bit(tmp_path, data):
    """By timm's loaders, with batch norm, dropout, EMA and an exchange drawn by each process for itself."""
    recipe = tiny_recipe(data, batch_size=8, epochs=3, model_ema=True, grad_accum_steps=2)
    whole = start(recipe, tmp_path / "whole")
    killed = start(recipe, tmp_path / "killed")
    give_up = time.time() + 200
    while not (tmp_path / "killed" / "summary.csv").exists() and killed.poll() is None and time.time() < give_up:
        time.sleep(0.01)
    children = subprocess.run(["pgrep", "-P", str(killed.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)  # rank 1
    _, err = killed.communicate(timeout=60)
    assert killed.returncode != 0 and "SIGKILL" in err
    assert whole.communicate(timeout=240) and whole.returncode == 0
    last = tmp_path / "killed" / "last.pth.tar"
    resumed = start(recipe, tmp_path / "killed", "--resume", str(last))
    _, err = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, err
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")
    states = [torch.load(tmp_path / run / "last.pth.tar", weights_only=True) for run in ("whole", "killed")]
    torch.testing.assert_close(states[0]["state_dict_ema"], states[1]["state_dict_ema"], rtol=0, atol=0)
    rng = [states[0]["rng"], *states[0]["rng_of_others"]]
    assert len(rng) == 2 and not torch.equal(rng[0]["torch"], rng[1]["torch"])
    with pytest.raises(ValueError, match=r"other settings: .*processes=1 \(was 2\)"):
        train(recipe.override(resume=str(last)), tmp_path / "killed", progress=False)


def test_error_of_all_processes_ends_them_and_leaves_no_folder(tmp_path, data):
    child = start(tiny_recipe(data, batch_size=32), tmp_path / "run")
    _, err = child.communicate(timeout=120)
    assert child.returncode != 0
    assert "timm-moex: error: batch_size=32 in each of 2 processes is more than the 49 training images" in err
    assert not (tmp_path / "run").exists()


def test_more_processes_than_gpus(monkeypatch):
    for key, value in {"WORLD_SIZE": 2, "RANK": 1, "LOCAL_RANK": 1}.items():
        monkeypatch.setenv(key, str(value))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="process 1 of this machine has no GPU of its own, for there are 1"):
        with join_processes("cuda"):
            raise AssertionError("joined")


def test_a_group_of_the_user_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match="a process group exists already"), join_processes("cpu"):
        raise AssertionError("joined")


@pytest.mark.parametrize("samples", [3, 4, 7, 9])
def test_shares_are_those_of_timms_sampler(samples):
    shares = [Processes(torch.device("cpu"), rank, 3).share_of(samples) for rank in range(3)]
    dealt = [list(OrderedDistributedSampler(range(samples), 3, rank)) for rank in range(3)]
    assert sorted(index for part, share in zip(dealt, shares) for index in part[:share]) == list(range(samples))


def test_evaluation_equalises_batch_statistics_and_sees_its_share(data, monkeypatch):
    alone = set_up_training(tiny_recipe(data, model_ema=True).arguments())
    run = replace(alone, processes=Processes(torch.device("cpu"), rank=0, count=2))
    reduced = []
    monkeypatch.setattr(setup, "distribute_bn", lambda *args: reduced.append(args))
    monkeypatch.setattr(Processes, "gather", lambda self, value: [value])
    assert loop._evaluate(run, epoch=0)["count"] == 11  # of 21
    models = (run.task.get_trainable_module(), run.task.get_trainable_module(ema=True))
    assert reduced == [(model, 2, True) for model in models]
