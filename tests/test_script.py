"""`python -m timm_moex.script`: scripts run as Python runs them, with the twins registered."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from timm_moex.script import run_script

ROOT = Path(__file__).parents[1]
CLONE = os.environ.get("TIMM_MOEX_TIMM_CLONE")
OURS = """
import json, sys
import neighbour
import timm

if __name__ == "__main__":
    print(json.dumps([sys.argv, sys.path[0], timm.is_model("moex_resnet18"), neighbour.__name__]))
    sys.exit(7)
"""


def run_module(*words, folder):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "timm_moex.script", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def test_script_sees_its_arguments_its_neighbours_and_the_twins(tmp_path):
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "ours.py").write_text(OURS)
    (scripts / "neighbour.py").write_text("")
    done = run_module("scripts/ours.py", "--model", "x y", folder=tmp_path)
    assert done.stdout == f'[["scripts/ours.py", "--model", "x y"], "{scripts.resolve()}", true, "neighbour"]\n'
    assert done.returncode == 7, done.stderr


def test_missing_script_is_one_line(tmp_path, capsys):
    (tmp_path / "validate.py").write_text("")
    word = str(tmp_path / "valdate.py")
    assert run_script([word]) == 2
    message = f"timm_moex.script: error: {word}: no such script; did you mean 'validate.py'?\n"
    assert capsys.readouterr().err == message
    assert run_script([str(tmp_path)]) == 2 and "is a folder" in capsys.readouterr().err


def test_without_a_script_the_usage_is_shown(capsys):
    assert run_script([]) == 2
    assert capsys.readouterr().err.startswith("usage: python -m timm_moex.script SCRIPT.py")


@pytest.mark.skipif(not CLONE, reason="no clone of timm: TIMM_MOEX_TIMM_CLONE names none")
def test_timms_validate_py_takes_a_twin(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "data" / "validation" / name).mkdir(parents=True)
        for n in range(2):
            pixels = torch.randint(0, 256, (70, 70, 3), dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / "data" / "validation" / name / f"{n}.png")
    save_file(timm.create_model("test_resnet", num_classes=2).state_dict(), tmp_path / "weights.safetensors")
    words = ("--model", "moex_test_resnet", "--checkpoint", "weights.safetensors", "--num-classes", "2")
    data = ("--data-dir", "data", "--device", "cpu", "--workers", "0", "--batch-size", "2", "--results-file", "out.csv")
    done = run_module(Path(CLONE) / "validate.py", *words, *data, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "moex_test_resnet" in (tmp_path / "out.csv").read_text()
