"""Several processes, started by torchrun as a user would, on the CPU with gloo."""

import csv
import os
import re
import signal
import socket
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

from timm_moex.cli import main
from timm_moex.training import build, loop
from timm_moex.training.build import set_up_training
from timm_moex.training.distributed import DisagreementError, Processes, join_processes
from timm_moex.training.loop import train
from timm_moex.training.recipe import Recipe

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
    """Crops and flips as well. The evaluation set is odd, so one share is padded, and the padding must not count."""
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


def test_a_killed_process_ends_the_other_and_the_run_resumes_bit_exactly(tmp_path, data):
    """With timm's loaders, batch norm, dropout, EMA and an exchange that each process draws."""
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
    with pytest.raises(ValueError, match=r"was saved with different settings: .*processes=1 \(was 2\)"):
        train(recipe.override(resume=str(last)), tmp_path / "killed", progress=False)


def test_error_of_all_processes_ends_them_and_leaves_no_folder(tmp_path, data):
    child = start(tiny_recipe(data, batch_size=32), tmp_path / "run")
    _, err = child.communicate(timeout=120)
    assert child.returncode != 0
    assert "timm-moex: error: batch_size=32 in each of 2 processes is larger than the training set of 49 images" in err
    assert not (tmp_path / "run").exists()


def start_each(recipes, folder: Path, hidden: str = "") -> list[subprocess.Popen]:
    """One process per recipe, started without torchrun, which would end the others after an error in one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    children = []
    for rank, recipe in enumerate(recipes):
        path = folder / f"{rank}.yaml"
        path.write_text(yaml.safe_dump(recipe.settings))
        module = "None" if rank else "types.SimpleNamespace(SummaryWriter=object)"
        code = (
            f"import sys, types; sys.modules[{hidden!r}] = {module}; from timm_moex.cli import main; sys.exit(main())"
        )
        command = [sys.executable, "-c", code, "train", str(path)]
        env = os.environ | address | {"WORLD_SIZE": str(len(recipes)), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        words = ["--output", str(folder / "run")]
        children.append(subprocess.Popen([*command, *words], env=env, stderr=subprocess.PIPE, text=True))
    return children


def errors_of(children: list[subprocess.Popen]) -> list[str]:
    try:
        return [child.communicate(timeout=120)[1] for child in children]
    finally:
        for child in children:
            child.kill()


APART = {
    "settings": (
        dict(lr=0.02, seed=7),
        "disagree: lr: 0.01 in process 0, 0.02 in process 1; seed: 42 in .*, 7 in process 1",
    ),
    "data": (dict(data_dir="smaller"), "disagree: training images: 49 in process 0, 40 in process 1"),
    "an error": (dict(data_dir="nowhere"), "data_dir='nowhere' does not exist"),
}


@pytest.mark.parametrize("what", APART)
def test_processes_that_disagree_all_end_with_the_reason(what, tmp_path, data, monkeypatch):
    change, message = APART[what]
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path / "smaller", train=40, test=21)
    recipe = tiny_recipe(data, batch_size=8)
    children = start_each([recipe, Recipe("other", recipe.settings | change)], tmp_path)
    errors = errors_of(children)
    assert [child.returncode for child in children] == [2, 2], errors
    for error in errors:
        assert error.startswith("timm-moex: error: ") and error.count("\n") == 1
        assert re.search(message, error), error
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob(".*.lock"))


def test_a_package_that_one_process_lacks_ends_all(tmp_path, data):
    recipe = tiny_recipe(data, batch_size=8, log_tensorboard=True)
    children = start_each([recipe, recipe], tmp_path, hidden="torch.utils.tensorboard")
    errors = errors_of(children)
    assert "another process of this run has failed: process 1: ImportError: log_tensorboard" in errors[0]
    assert "pip install tensorboard" in errors[1] and [child.returncode for child in children] == [2, 2]


def test_processes_agree_or_the_error_names_keys_values_and_ranks(monkeypatch):
    told = [{"lr": "0.1", "seed": "1"}, {"lr": "0.1", "seed": "1"}, {"lr": "0.2", "seed": "1", "new": "0"}]
    monkeypatch.setattr(Processes, "gather", lambda self, value: told)
    words = "lr: 0.1 in processes 0, 1, 0.2 in process 2; new: nothing in processes 0, 1, 0 in process 2"
    with pytest.raises(DisagreementError, match=words):
        Processes(torch.device("cpu"), rank=0, count=3).agree({"lr": 0.1})
    told[:] = [told[0]] * 3
    Processes(torch.device("cpu"), rank=0, count=3).agree({"lr": 0.1})


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"WORLD_SIZE": "abc"}, "environment variable WORLD_SIZE='abc': expected an integer >= 0"),
        ({"WORLD_SIZE": "-2"}, "environment variable WORLD_SIZE='-2': expected an integer >= 0"),
        ({"WORLD_SIZE": "2", "RANK": "5"}, "environment variable RANK=5: expected less than WORLD_SIZE=2"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": ""},
            "environment variable LOCAL_RANK='': expected an integer >= 0",
        ),
    ],
)
def test_invalid_environment_variables_are_named(variables, message, monkeypatch, tmp_path, data, capsys):
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe(data).settings))
    assert main(["train", str(path), "--output", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == f"timm-moex: error: {message}\n"


def test_more_processes_than_gpus(monkeypatch):
    for key, value in {"WORLD_SIZE": 2, "RANK": 1, "LOCAL_RANK": 1}.items():
        monkeypatch.setenv(key, str(value))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"local rank 1 has no GPU \(1 available\)"):
        with join_processes("cuda"):
            raise AssertionError("joined")


def test_a_group_of_the_user_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match="a process group already exists"), join_processes("cpu"):
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
    monkeypatch.setattr(build, "distribute_bn", lambda *args: reduced.append(args))
    monkeypatch.setattr(Processes, "gather", lambda self, value: [value])
    assert loop._evaluate(run, epoch=0)["count"] == 11  # of 21
    models = (run.task.get_trainable_module(), run.task.get_trainable_module(ema=True))
    assert reduced == [(model, 2, True) for model in models]
