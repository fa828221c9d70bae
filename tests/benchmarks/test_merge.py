"""Results of another clone are merged completely and once, or not at all."""

import csv
import sys

import pytest

from benchmarks._results import RESULTS, append_rows, read_rows
from benchmarks.study import merge
from benchmarks.study._curves import append_curve, read_curves

COLUMNS = ["preset", "model", "method", "seed", "test_top1", "monitored_top1", "monitored_loss", "settings", "curve"]


def run(seed, **changes):
    row = dict.fromkeys(COLUMNS, "1") | {"preset": "p", "model": "m", "method": "moex", "seed": seed, "settings": "aa"}
    return row | {"curve": f"study/{seed}"} | changes


def write_clone(folder, rows):
    """A results folder with these rows of study.csv and their curves."""
    for row in rows:
        append_rows(folder / "study.csv", [row])
        append_curve(folder, row["curve"], [{"epoch": row["seed"], "lr": "0.1"}])
    return folder


def bring(source, results, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["merge", str(source), "--results", str(results)])
    merge.main()


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_missing_rows_and_curves_are_merged_and_a_second_merge_adds_nothing(tmp_path, monkeypatch):
    here = write_clone(tmp_path / "here", [run("0")])
    there = write_clone(tmp_path / "there", [run("0"), run("1", test_top1="90"), run("2")])
    bring(there, here, monkeypatch)
    assert read_rows("study", here) == [run("0"), run("1", test_top1="90"), run("2")]
    [epoch] = read_curves(here)["study/2"]
    assert (epoch["epoch"], epoch["lr"], epoch["eval_loss"]) == ("2", "0.1", "")
    before = everything(here)
    bring(there, here, monkeypatch)
    assert everything(here) == before


@pytest.mark.parametrize(
    "other, message",
    [
        (run("0", settings="bb"), "p m moex 0 differs between the two tables .settings: 'bb' there, 'aa' here"),
        (run("0", test_top1="2"), "differs between the two tables .test_top1: '2' there"),
    ],
)
def test_a_run_that_differs_is_refused_and_nothing_is_written(other, message, tmp_path, monkeypatch, capsys):
    here = write_clone(tmp_path / "here", [run("0")])
    there = write_clone(tmp_path / "there", [run("1"), other])
    before = everything(here)
    with pytest.raises(SystemExit):
        bring(there, here, monkeypatch)
    assert message.replace(".settings", "(settings").replace(".test_top1", "(test_top1") in capsys.readouterr().err
    assert everything(here) == before


def test_a_duplicate_row_is_merged_once_and_rejected_if_it_differs():
    assert merge.new_rows("study", [run("1"), run("1")], [run("0")]) == [run("1")]
    with pytest.raises(ValueError, match="differs between the two tables"):
        merge.new_rows("study", [run("1"), run("1", settings="bb")], [run("0")])


def test_missing_and_differing_curves_are_refused(tmp_path):
    here, there = write_clone(tmp_path / "here", [run("0")]), write_clone(tmp_path / "there", [run("1")])
    append_curve(here, "study/1", [{"epoch": "7"}])
    with pytest.raises(ValueError, match="different curve of this name"):
        merge.plan(there, here)
    (there / "curves.csv").unlink()
    with pytest.raises(ValueError, match="curves.csv does not contain it"):
        merge.plan(there, here)


def test_columns_that_only_one_table_has_are_refused(tmp_path):
    here, there = write_clone(tmp_path / "here", [run("0")]), write_clone(tmp_path / "there", [run("1", extra="1")])
    with pytest.raises(ValueError, match="only one of the two tables has these columns: extra"):
        merge.plan(there, here)


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no results"):
        merge.plan(tmp_path, tmp_path)


@pytest.mark.parametrize("name", [name for name in merge.KEYS if (RESULTS / f"{name}.csv").exists()])
def test_keys_tell_the_lines_of_the_real_tables_apart(name, tmp_path):
    with (RESULTS / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({tuple(row[key] for key in merge.KEYS[name]) for row in rows}) == len(rows) > 0
    assert merge.new_rows(name, rows, rows) == [] and len(merge.new_rows(name, rows, rows[:1])) == len(rows) - 1
