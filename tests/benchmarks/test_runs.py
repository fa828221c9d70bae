"""The study's runner: a line per finished run, nothing twice, nothing lost."""

import csv
import json

import pytest
from tinydata import tiny_recipe, write_tiny

from benchmarks.study import _runs
from benchmarks.study._runs import Job, run_jobs


def look(model, job):
    return {"classes": model.num_classes, "folder": job.folder.name}


def lines(table):
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def jobs(tmp_path):
    write_tiny(tmp_path / "data")
    recipe = tiny_recipe(data_dir=str(tmp_path / "data"), epochs=2)
    return [
        Job({"method": name, "seed": "3"}, recipe.override(seed=3, lr=lr), tmp_path / "runs" / name, 1)
        for name, lr in (("good", 0.01), ("bad", 1e30))
    ]


def test_runs_have_a_line_each_and_a_failed_one_has_none_and_is_named(jobs, tmp_path):
    table = tmp_path / "results" / "some.csv"
    with pytest.raises(SystemExit, match="bad: FloatingPointError: .*loss is"):
        run_jobs(jobs, look, table, parallel=2, threads=1)
    [row] = lines(table)
    assert (row["method"], row["classes"], row["folder"], row["threads"]) == ("good", "10", "good", "1")
    assert float(row["cpu_seconds"]) > 0 and row["commit"]
    curve = (table.parent / "curves" / row["curve"]).read_text()
    assert curve == (tmp_path / "runs" / "good" / "summary.csv").read_text() and len(curve.splitlines()) == 3
    last = curve.splitlines()[-1].split(",")
    assert float(row["monitored_top1"]) == pytest.approx(
        float(last[curve.split("\n")[0].split(",").index("eval_top1")])
    )

    before = table.read_text()
    run_jobs(jobs[:1], look, table)  # nothing to do
    assert table.read_text() == before
    other = Job(jobs[0].columns, jobs[0].recipe.override(lr=0.02), jobs[0].folder, 1)
    with pytest.raises(ValueError, match="of other settings"):
        run_jobs([other], look, table)
    moved = Job(jobs[0].columns, jobs[0].recipe.override(seed=3, workers=1, device="cuda"), jobs[0].folder, 1)
    run_jobs([moved], look, table)


def test_an_interrupted_run_goes_on_and_its_attempts_add_up(jobs, tmp_path, monkeypatch):
    job, curves = jobs[0], tmp_path / "curves"
    whole = _runs._do(Job(job.columns, job.recipe, tmp_path / "whole", 1), look, curves, None)
    monkeypatch.setattr(_runs, "train", lambda *args, **kwargs: _stop_after_one_epoch(*args, **kwargs))
    with pytest.raises(KeyboardInterrupt):
        _runs._do(job, look, curves, None)
    monkeypatch.undo()
    (job.folder / "seconds.json").write_text("[1000.0, 500.0]")
    row = _runs._do(job, look, curves, None)
    assert 1000 < row["seconds"] < 1500 and 500 < row["cpu_seconds"] < 1000
    assert (row["monitored_top1"], row["monitored_loss"]) == (whole["monitored_top1"], whole["monitored_loss"])
    assert json.loads((job.folder / "training.json").read_text())["monitored_loss"] == row["monitored_loss"]


def _stop_after_one_epoch(recipe, folder, **kwargs):
    def stop(line):
        kwargs["log"](line)
        raise KeyboardInterrupt

    from timm_moex.training.loop import train

    return train(recipe, folder, **{**kwargs, "log": stop})
