"""The study's runs: one row per finished run, without duplicates or losses."""

import pytest
from tinydata import tiny_recipe, write_tiny

from benchmarks._results import read_rows
from benchmarks.study._curves import read_curves
from benchmarks.study._runs import Job, run_jobs


def look(model, job):
    return {"classes": model.num_classes, "folder": job.folder.name}


@pytest.fixture
def jobs(tmp_path):
    write_tiny(tmp_path / "data")
    recipe = tiny_recipe(data_dir=str(tmp_path / "data"), epochs=2, in_memory=True, pad=1)
    return [
        Job({"method": name, "seed": "3"}, recipe.override(seed=3, lr=lr), tmp_path / "runs" / name)
        for name, lr in (("good", 0.01), ("bad", 1e30))
    ]


def test_runs_have_a_line_each_and_a_failed_one_has_none_and_is_named(jobs, tmp_path):
    table = tmp_path / "results" / "some.csv"
    with pytest.raises(SystemExit, match="bad: FloatingPointError: .*loss is"):
        run_jobs(jobs, look, table, parallel=1, threads=1)
    [row] = read_rows("some", table.parent)
    assert (row["method"], row["classes"], row["folder"], row["threads"]) == ("good", "10", "good", "1")
    assert float(row["cpu_seconds"]) > 0 and row["commit"]
    [(name, curve)] = read_curves(table.parent).items()
    assert name == row["curve"] == "some/good" and [epoch["epoch"] for epoch in curve] == ["0", "1"]
    assert float(row["monitored_top1"]) == pytest.approx(float(curve[-1]["eval_top1"]))

    before = table.read_text()
    run_jobs(jobs[:1], look, table)  # nothing to do
    assert table.read_text() == before
    other = Job(jobs[0].columns, jobs[0].recipe.override(lr=0.02), jobs[0].folder)
    with pytest.raises(ValueError, match="has other settings"):
        run_jobs([other], look, table)
    moved = Job(jobs[0].columns, jobs[0].recipe.override(seed=3, workers=1, device="cuda"), jobs[0].folder)
    run_jobs([moved], look, table)

    table.unlink()  # a command that was stopped between the end of a training and its line
    run_jobs(jobs[:1], look, table)
    assert table.read_text() == before and len(read_curves(table.parent)) == 1


def test_settings_have_the_hash_of_the_lines_on_file(tmp_path):
    recipe = tiny_recipe(tmp_path)
    plain = Job({}, recipe, tmp_path).settings
    in_memory = Job({}, recipe.override(in_memory=True), tmp_path).settings
    assert in_memory == Job({}, recipe.override(in_memory=True, pad=4, seed=1), tmp_path).settings
    assert len({plain, in_memory, Job({}, recipe.override(in_memory=True, pad=0), tmp_path).settings}) == 3
