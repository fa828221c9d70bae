"""Help, the version, recipes and wrong options are answered without PyTorch, whose import takes seconds."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import timm_moex
from timm_moex.cli import make_parser

COMMANDS = re.findall(r"^    ([a-z]+)\s", make_parser().format_help(), re.MULTILINE)


@pytest.fixture(scope="module", params=["script", "module"])
def program(request, tmp_path_factory):
    """A function that runs the command line in a process in which `import torch` fails."""
    folder = tmp_path_factory.mktemp("early")
    (folder / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    script = folder / "timm-moex"  # as pip writes it
    script.write_text("import sys\nfrom timm_moex.cli import main\nsys.exit(main())\n")
    start = [str(script)] if request.param == "script" else ["-m", "timm_moex"]
    path = os.pathsep.join([str(folder), str(Path(timm_moex.__file__).parents[1])])

    def run(*words):
        command = [sys.executable, *start, *words]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})

    return run


def test_the_process_notices_an_import_of_torch(program):
    assert "torch was imported" in program("sample").stderr


@pytest.mark.parametrize("words", [["--help"], *([command, "--help"] for command in COMMANDS)], ids=" ".join)
def test_help_needs_no_torch(program, words):
    done = program(*words)
    assert done.returncode == 0 and done.stdout.startswith("usage: timm-moex") and not done.stderr


def test_version_needs_no_torch(program):
    assert program("--version").stdout.startswith(f"timm-moex {timm_moex.__version__}, timm ")


@pytest.mark.parametrize("words, line", [(["recipe", "quickstart"], "model: "), (["list", "--recipes"], "quickstart")])
def test_recipes_need_no_torch(program, words, line):
    done = program(*words)
    assert done.returncode == 0 and f"\n{line}" in done.stdout and not done.stderr


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "required: COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (["train"], "required: recipe"),
        (["list", "--bla"], "unrecognized arguments: --bla"),
        (["eval", "resnet18", "--batch-size", "0"], "argument --batch-size: 0: expected at least 1"),
        (["train", "quikstart"], "expected the path of a .yaml file or one of"),
        (["train", "quickstart", "--set", "lrr=1"], "unknown key 'lrr'"),
        (["compare"], "expected either a recipe to compare or --report DIR"),
        (["compare", "quickstart", "--set", "lr"], "--set lr: expected key=value"),
        (["publish", "FOLDER"], "expected `publish FOLDER --repo-id ORG/NAME`"),
        (["recipe", "quikstart"], "'quikstart': expected one of"),
        (["list", "--recipes", "--presets"], "--recipes and --presets cannot be combined"),
        (["list", "moex_*", "--recipes"], "FILTER and --recipes cannot be combined"),
    ],
)
def test_a_wrong_option_needs_no_torch(program, words, message):
    done = program(*words)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("timm-moex: error: ") and done.stderr.count("\n") == 1 and message in done.stderr
