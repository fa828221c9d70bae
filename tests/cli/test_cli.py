"""The command line, end to end on a few images."""

import re
import subprocess
import sys

import pytest
import yaml
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


def test_folder_evaluates_to_what_training_said(trained, capsys):
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


def test_sample_is_the_packaged_one(capsys):
    assert run(capsys, "sample")[1].strip() == str(sample_dir())


def test_errors_are_one_line_and_exit_with_2(trained, tmp_path, capsys):
    data, recipe, folder = trained
    train = ("train", recipe, "--data-dir", data, "--output", tmp_path / "x")
    assert_error(run(capsys, "train", "quikstart"), "did you mean 'quickstart'")
    assert_error(run(capsys, *train, "--set", "bacth_size=4"), "did you mean 'batch_size'")
    assert_error(run(capsys, *train, "--set", "kd_model_name=resnet18"), "only timm's stock train.py")
    assert_error(run(capsys, *train, "--set", "model=moex_restnet18"), "did you mean 'moex_resnet18'")
    assert_error(run(capsys, "train", recipe), "data_dir is not set")
    assert_error(run(capsys, *train, "--pad", "2"), "--pad 2 is of the crop that --in-memory does")
    assert_error(run(capsys, *train, "--in-memory", "--pad", "-1"), "pad=-1: expected a width of at least 0")
    assert_error(run(capsys, *train, "--set", "lr=[1"), "--set lr=.* not readable as YAML")
    assert_error(run(capsys, "train", recipe, "--data-dir", tmp_path / "no"), "does not exist")
    assert_error(run(capsys, *train, "--set", "lr=1e9", "--in-memory"), r"not finite|loss is (nan|inf)")
    assert_error(run(capsys, *train[:4], "--output", recipe / "x"), "Not a directory")
    assert_error(run(capsys, *train[:4], "--output", folder), "holds a run already")
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
