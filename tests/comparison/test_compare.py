"""A comparison from its first run to its report: resumed, extended, and with runs that fail."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml
from tinydata import tiny_recipe, write_tiny

import timm_moex
from timm_moex.cli import main
from timm_moex.comparison.methods import apply_method
from timm_moex.training.loop import train
from timm_moex.training.recipe import RecipeError

METHODS = ["baseline", "moex", "bad: lr=1e30"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("compare")
    return tiny_recipe(write_tiny(root / "data"), epochs=2, in_memory=True, drop=0.0)


@pytest.fixture(scope="module")
def compared(tiny, tmp_path_factory):
    """(folder, printed lines) of a comparison with two seeds and a method that fails."""
    folder, lines = tmp_path_factory.mktemp("compared") / "out", []
    result = timm_moex.compare(tiny, methods=METHODS, seeds=2, output=folder, log=lines.append, progress=False)
    assert result.failed == 2 and result.folder == folder
    return folder, lines


def results(folder):
    return {str(path.parent.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("result.json")}


def test_runs_are_ordinary_run_folders_made_seed_by_seed(compared):
    folder, _ = compared
    made = results(folder)
    assert sorted(made, key=made.get) == ["baseline/0", "moex/0", "baseline/1", "moex/1"]
    for name in made:
        assert {"last.pth.tar", "summary.csv", "recipe.yaml", "hub"} <= {p.name for p in (folder / name).iterdir()}
    recipes = [yaml.safe_load((folder / name / "recipe.yaml").read_text()) for name in ("baseline/1", "moex/1")]
    assert [recipe.pop("model_kwargs")["moex_prob"] for recipe in recipes] == [0.0, 0.5]
    assert recipes[0] == recipes[1] and recipes[0]["seed"] == 1


def test_an_estimate_follows_the_first_epoch_and_a_table_each_complete_seed(compared):
    lines = compared[1]
    pattern = re.compile(r"about .* until \d\d:\d\d: the first epoch took")
    [estimate] = [i for i, line in enumerate(lines) if pattern.match(line)]
    [after] = [i for i, line in enumerate(lines) if line.startswith("\nafter seed 0:")]
    [failed, _] = [i for i, line in enumerate(lines) if "failed: FloatingPointError" in line]
    assert estimate < failed < after and "epochs left: 11 of 12, in 6 runs" in lines[estimate]
    assert "[" not in lines[after].split("\n|")[3]  # one pair has no interval


def test_the_last_epoch_counts_and_the_report_names_images_failures_and_the_gap(compared):
    folder, lines = compared
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "20 images of split validation, after the last epoch" in text and "48 images of split train" in text
    assert "2 runs failed:" in text and "bad seed 1: FloatingPointError: loss is" in text
    assert "The baseline's loss on unseen images is" in text and "bad: no pair of runs with the baseline yet." in text
    with (folder / "compare.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["seed"]) for row in rows] == [
        ("baseline", "0"),
        ("moex", "0"),
        ("baseline", "1"),
        ("moex", "1"),
    ]
    for row in rows:
        with (folder / row["method"] / row["seed"] / "summary.csv").open(newline="") as file:
            last = list(csv.DictReader(file))[-1]
        assert all(float(row[key]) == float(last[key]) for key in ("eval_top1", "eval_loss", "train_loss"))
    errors = [100 - float(row["eval_top1"]) for row in rows]
    mean = (errors[1] - errors[0] + errors[3] - errors[2]) / 2
    assert f"{mean:+.2f} [" in text


def test_the_picture_is_drawn(compared):
    pytest.importorskip("matplotlib")
    assert (compared[0] / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_finished_runs_are_never_repeated_and_seeds_and_methods_can_be_added(compared, tiny):
    folder, _ = compared
    before, lines = results(folder), []
    timm_moex.compare(tiny, methods=["baseline", "cutmix"], seeds=[2], output=folder, log=lines.append)
    after = results(folder)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"baseline/2", "cutmix/2"}
    lines.clear()
    timm_moex.compare(tiny, methods=METHODS[:2], seeds=2, output=folder, log=lines.append)
    assert results(folder) == after and lines[0] == "4 of 4 runs are already finished"
    assert re.search(r"cutmix: [+-]\d+\.\d\d points in one pair", "".join(lines))


def test_a_report_can_be_written_at_any_time(compared, capsys, tmp_path):
    assert main(["compare", "--report", str(compared[0])]) == 1  # two runs failed
    assert "| baseline |" in capsys.readouterr().out
    assert main(["compare", "--report", str(tmp_path)]) == 2
    assert "does not contain a comparison" in capsys.readouterr().err


def test_another_recipe_or_method_of_the_same_name_is_refused(compared, tiny):
    folder, _ = compared
    before = results(folder)
    for recipe, methods, message in (
        (tiny.override(epochs=3), ["baseline"], "was started with epochs: 2, but now it is 3"),
        (tiny, ["baseline", "bad: lr=0.5"], "method 'bad' was 'lr=1e30', but now it is 'lr=0.5'"),
        (tiny, ["baseline", "same: moex_prob=0.0"], "baseline, same train the same recipe"),
        (tiny.override(data_dir="/nowhere"), ["baseline"], "does not exist"),
        (tiny.override(["model_kwargs.moex_layer=nowhere"]), ["baseline", "moex"], "nowhere"),
    ):
        with pytest.raises(ValueError, match=message):
            timm_moex.compare(recipe, methods=methods, seeds=1, output=folder, log=lambda line: None)
    assert results(folder) == before


@pytest.mark.parametrize("seeds", [0, [1, 1], []])
def test_seeds_are_at_least_one(seeds, tiny, tmp_path):
    with pytest.raises(ValueError, match="seeds="):
        timm_moex.compare(tiny, seeds=seeds, output=tmp_path / "out")


def test_a_run_that_crashes_does_not_affect_the_others(tiny, tmp_path, monkeypatch):
    (tmp_path / "dies.py").write_text("import os\nos._exit(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    methods = ["dead: device_modules=[dies]", "baseline"]
    result = timm_moex.compare(tiny, methods=methods, seeds=1, output=tmp_path / "out", log=lambda line: None)
    assert results(tmp_path / "out").keys() == {"baseline/0"} and result.failed == 1
    assert "dead seed 0: its process ended with exit code 3" in result.text


def test_a_killed_comparison_resumes_and_ends_with_the_same_results(tiny, tmp_path):
    """SIGKILL ends the command and its runs; running the command again finishes them bit for bit."""
    recipe, quiet = tmp_path / "tiny.yaml", dict(methods=["baseline"], seeds=1, log=lambda line: None)
    recipe.write_text(yaml.safe_dump(tiny.override(epochs=30).settings))
    words = [sys.executable, "-m", "timm_moex", "compare", str(recipe), "--methods", "baseline", "--seeds", "1"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here: sums of more threads differ in the last bits
    command = subprocess.Popen([*words, "--output", str(tmp_path / "out")], stdout=subprocess.DEVNULL, env=environ)
    summary, until = tmp_path / "out" / "baseline" / "0" / "summary.csv", time.monotonic() + 120
    while not summary.is_file() and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    time.sleep(0.5)
    done = len(summary.read_text().splitlines()) - 1
    time.sleep(1)
    assert 0 < done < 30 and len(summary.read_text().splitlines()) - 1 == done  # nothing trains on without its command
    timm_moex.compare(recipe, output=tmp_path / "out", **quiet)
    again = json.loads((tmp_path / "out/baseline/0/result.json").read_text())
    without = apply_method(tiny.override(epochs=30, seed=0), ["moex_prob=0.0"])
    whole = train(without, tmp_path / "whole", progress=False, log=lambda line: None)
    assert again["metrics"] == whole.metrics and again["epochs"] == 30


def test_a_first_run_that_cannot_start_ends_the_comparison_with_its_reason(tiny, tmp_path):
    with pytest.raises(RecipeError, match="baseline seed 0: .*opt_kwargs"):
        timm_moex.compare(
            tiny,
            settings=["opt_kwargs={foo: 1}"],
            methods=["baseline", "moex"],
            seeds=1,
            output=tmp_path / "out",
            log=lambda line: None,
        )
