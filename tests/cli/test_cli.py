"""The command line, end to end on a few images."""

import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from PIL import Image
from tinydata import tiny_recipe, write_tiny

from timm_moex.cli import main
from timm_moex.training.datasets import sample_dir


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(data, recipe file, run folder) after `timm-moex train`."""
    root = tmp_path_factory.mktemp("cli")
    data = write_tiny(root / "data")
    recipe = root / "tiny.yaml"
    settings = {key: value for key, value in tiny_recipe(data).settings.items() if key != "data_dir"}
    recipe.write_text(yaml.safe_dump(settings))
    where = ["--data-dir", data, "--output", root / "run"]
    words = ["train", recipe, "--set", "epochs=1", "lr=1e-2", "--in-memory", *where]
    assert main([str(word) for word in words]) == 0
    return data, recipe, root / "run"


def run(capsys, *words):
    """(exit code, stdout, stderr) of a command."""
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def assert_error(result, message):
    code, _, err = result
    assert code == 2 and re.search(message, err), err
    assert err.startswith("timm-moex: error: ") and err.count("\n") == 1


def test_evaluating_the_folder_gives_the_numbers_of_training(trained, capsys):
    data, recipe, folder = trained
    row = dict(zip(*(line.split(",") for line in (folder / "summary.csv").read_text().splitlines())))
    where = ("--dataset", "torch/fashion_mnist", "--data-dir", data)
    code, out, _ = run(capsys, "eval", folder / "hub", *where)
    assert code == 0 and f"top-1 {float(row['eval_top1']):.2f}, " in out
    assert f"loss {float(row['eval_loss']):.4f}" in out
    assert f"timm.create_model('local-dir:{folder / 'hub'}', pretrained=True)" in out
    assert run(capsys, "eval", folder / "hub", *where, "--min-top1", "100")[0] == 1


def test_predict_writes_a_picture(trained, capsys):
    pytest.importorskip("matplotlib")
    data, _, folder = trained
    png = folder / "p.png"
    words = ("--dataset", "torch/fashion_mnist", "--data-dir", data, "--count", 6, "--output", png)
    assert run(capsys, "predict", folder / "hub", *words)[0] == 0
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_command_replaces_its_own_earlier_output_and_anything_with_overwrite(trained, capsys):
    pytest.importorskip("matplotlib")
    data, _, folder = trained
    where = ("--dataset", "torch/fashion_mnist", "--data-dir", data)
    commands = {
        "own.png": ("show", "sample:0", "sample:1", "--output"),
        "own.svg": ("predict", folder / "hub", *where, "--count", 2, "--output"),
        "own.jpg": ("curves", folder, "--output"),
        "own.csv": ("eval", folder / "hub", *where, "--per-class"),
    }
    for name, words in commands.items():
        assert [run(capsys, *words, folder.parent / name)[0] for _ in range(2)] == [0, 0]
    other = folder.parent / "other.png"
    shutil.copy(folder.parent / "own.png", other)
    assert_error(
        run(capsys, *commands["own.jpg"], other),
        "other.png exists and was not written by this command; use --overwrite",
    )
    assert run(capsys, *commands["own.jpg"], other, "--overwrite")[0] == 0


TROUBLE = {
    "killed": (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "try fewer workers"),
    "bus": (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible"), "fewer workers"),
    "gone": (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "another process may have killed it"),
    "shm": (RuntimeError("unable to write to file </torch_7_8_0>: No space left on device (28)"), "docker: --shm-size"),
    "bomb": (
        Image.DecompressionBombError(
            "Image size (9 pixels) exceeds limit of 8 pixels, could be decompression bomb DOS attack."
        ),
        "resize or remove the image",
    ),
    "cpu": (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate"), "a smaller batch"),
    "gpu": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7.00 GiB."), "a smaller batch"),
    "python": (MemoryError(), "MemoryError; out of memory: try a smaller batch size"),
}


@pytest.mark.parametrize("case", TROUBLE)
def test_errors_of_the_machine_are_not_reported_as_bugs(case, monkeypatch, capsys):
    error, words = TROUBLE[case]
    monkeypatch.setattr("timm_moex.training.datasets.sample_dir", lambda: (_ for _ in ()).throw(error))
    assert_error(run(capsys, "sample"), words)


def test_an_image_that_is_too_large_gives_a_one_line_error(tmp_path, monkeypatch, capsys):
    Image.new("L", (64, 64)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    result = run(capsys, "show", tmp_path / "large.png", "sample:0", "--output", tmp_path / "x.png")
    assert_error(result, "4096 pixels.*exceeds limit of 2000")


def test_sample_is_the_packaged_one(capsys):
    assert run(capsys, "sample")[1].strip() == str(sample_dir())


def test_errors_are_one_line_and_exit_with_2(trained, tmp_path, capsys):
    data, recipe, folder = trained
    train = ("train", recipe, "--data-dir", data, "--output", tmp_path / "x")
    assert_error(run(capsys, "train", "quikstart"), "did you mean 'quickstart'")
    assert_error(run(capsys, *train, "--set", "bacth_size=4"), "did you mean 'batch_size'")
    assert_error(
        run(capsys, *train, "--set", "kd_model_name=resnet18"), "the built-in trainer does not support kd_model_name"
    )
    assert_error(run(capsys, *train, "--set", "model=moex_restnet18"), "did you mean 'moex_resnet18'")
    assert_error(run(capsys, "train", recipe), "data_dir is not set")
    assert_error(run(capsys, *train, "--pad", "2"), "pad: 2 has no effect without in_memory")
    assert_error(run(capsys, *train, "--in-memory", "--pad", "-1"), "pad: -1: expected at least 0")
    assert_error(run(capsys, *train, "--set", "lr=[1"), "--set lr=.* not valid YAML")
    assert_error(run(capsys, "train", recipe, "--data-dir", tmp_path / "no"), "does not exist")
    assert_error(run(capsys, *train, "--set", "lr=1e9", "--in-memory"), r"not finite|loss is (nan|inf)")
    assert_error(run(capsys, *train[:4], "--output", recipe / "x"), "Not a directory|File exists")
    assert_error(run(capsys, *train[:4], "--output", folder), "already contains a run")
    assert_error(run(capsys, "eval", folder, "--data-dir", data), "no config.json.*did you mean .*hub")
    assert_error(run(capsys, "eval", "moex_restnet18", "--data-dir", data), "did you mean 'moex_resnet18'")
    assert_error(run(capsys, "sites", "restnet18"), "not registered; did you mean 'resnet18'")


def test_interrupt_exits_with_130(trained, monkeypatch, capsys):
    monkeypatch.setattr("timm_moex.training.datasets.sample_dir", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    code, _, err = run(capsys, "sample")
    assert code == 130 and "interrupted" in err


def test_python_m_is_the_same_program():
    done = subprocess.run([sys.executable, "-m", "timm_moex", "sample"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == str(sample_dir())


@pytest.mark.parametrize("model, ending", [("resnet8_cifar", " after `import timm_moex`"), ("test_resnet", "")])
def test_last_line_of_train_says_what_must_be_imported(model, ending, trained, capsys, tmp_path):
    data, recipe, _ = trained
    where = ["--data-dir", data, "--output", tmp_path / "run", "--in-memory"]
    code, out, _ = run(capsys, "train", recipe, *where, "--set", "epochs=1", f"model={model}", "model_kwargs={}")
    assert code == 0 and out.splitlines()[-1].endswith(f"pretrained=True){ending}")
