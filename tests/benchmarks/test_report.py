"""The tables of the report match the CSV files, and their arithmetic is correct."""

import pytest

from benchmarks._markdown import read_block
from benchmarks._results import RESULTS, read_rows
from benchmarks.study import report
from benchmarks.study._curves import read_curves


@pytest.mark.parametrize("where", report.blocks(), ids=lambda where: f"{where[0].parent.name}-{where[1]}")
def test_tables_are_those_of_the_csv_files(where):
    assert read_block(*where) == report.blocks()[where], "run: python -m benchmarks.study.report --write"


@pytest.mark.parametrize("name", ["study", "ablation", "domain_shift"])
def test_every_run_has_its_curve_with_the_accuracy_of_the_last_epoch(name):
    rows = read_rows(name)
    assert rows and len({row["curve"] for row in rows}) == len(rows)
    curves = {key: curve for key, curve in read_curves(RESULTS).items() if key.startswith(f"{name}/")}
    for row in rows:
        curve = curves[row["curve"]]
        assert [int(epoch["epoch"]) for epoch in curve] == list(range(len(curve)))
        assert float(curve[-1]["eval_top1"]) == pytest.approx(float(row["monitored_top1"]), abs=1e-3)
    assert curves.keys() == {row["curve"] for row in rows}


def row(method, seed, top1, seconds="10", loss="0.5"):
    return dict(
        preset="cpu-small",
        model="m",
        method=method,
        seed=seed,
        test_top1=top1,
        test_loss=loss,
        cpu_seconds=seconds,
        seconds=seconds,
        device="cpu",
        processor="P",
        threads="1",
        torch="2",
        timm="1",
        commit="c",
        date="d",
        curve="x",
    )


def test_study_table_pairs_seeds_and_leaves_out_unknown_times(monkeypatch):
    rows = [row("baseline", "0", "90"), row("baseline", "1", "92"), row("baseline", "2", "94", "")]
    rows += [row("moex", "1", "93", "12", "0.3"), row("moex", "0", "90", "13")]
    monkeypatch.setattr(report, "read_rows", lambda name: rows)
    monkeypatch.setattr(report, "epochs_of", lambda rows: "2 epochs")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.study().splitlines() if "|" in line]
    assert lines[2][:4] == ["baseline", "8.00 ± 1.15", "", "0.500 ± 0.000"] and lines[2][5:7] == ["1.00", "3"]
    assert lines[3][:3] == ["MoEx", "8.50 ± 1.50", "-0.50 ± 0.50"] and lines[3][4:7] == ["-0.100 ± 0.100", "1.25", "2"]


def test_summary_counts_the_pairs_of_a_method_with_fewer_seeds(monkeypatch):
    rows = [
        row(method, str(seed), str(90 + seed))
        for method, n in (("baseline", 3), ("moex", 3), ("mixup", 2))
        for seed in range(n)
    ]
    monkeypatch.setattr(report, "read_rows", lambda name: rows if name == "study" else [])
    [line] = [line for line in report.summary().splitlines() if "cpu-small" in line]
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells == ["9.00 ± 0.58", "+0.00 ± 0.00 (2)", "–", "+0.00 ± 0.00", "–", "–", "3"]


def test_robustness_averages_severities_within_a_seed():
    rows = [
        dict(corruption=kind, severity=s, seed=seed, error=e)
        for kind, s, seed, e in [
            ("clean", "0", "0", "5"),
            ("blur", "1", "0", "10"),
            ("blur", "5", "0", "30"),
            ("noise", "1", "0", "50"),
            ("blur", "1", "1", "12"),
        ]
    ]
    assert report.mean_by_seed(rows, "error", ["blur"]) == {"0": 20, "1": 12}
    assert report.mean_by_seed(rows, "error", ["blur", "noise"]) == {"0": 30, "1": 12}
    assert report.mean_by_seed(rows, "error", ["clean"]) == {"0": 5}


@pytest.mark.parametrize("draw", ["learning_curves", "ablation", "robustness", "domain_shift", "pacs_cifar10"])
def test_every_picture_of_the_report_is_drawn_from_the_csv_files_and_shown(draw):
    plots = pytest.importorskip("benchmarks.study.report_plots", reason="needs matplotlib", exc_type=ImportError)
    figures = getattr(plots, draw)()
    assert figures
    page = report.REPORT.read_text()
    for name, figure in figures.items():
        assert (RESULTS / f"{name}.png").is_file() and f"(results/{name}.png)" in page
        assert all(axes.has_data() for axes in figure.axes)
