"""Tables of presets that have no runs yet, tested with made-up rows."""

import pytest

from benchmarks.study import _rows, pacs, report, report_deep, report_shift

FACTS = dict(model="m", device="cpu", processor="P", threads="1", torch="2", timm="1", commit="c", date="d")


def run(preset, method, seed, top1, loss="0.5", train="0.2"):
    return FACTS | dict(
        preset=preset,
        method=method,
        seed=seed,
        test_top1=str(top1),
        test_loss=loss,
        curve=train,
        seconds="",
        cpu_seconds="",
    )


@pytest.fixture
def lines(monkeypatch):
    """A function that writes rows of study.csv and robustness.csv; a curve's name is its last training loss."""
    tables = {"study": [], "robustness": []}
    for module in (report, report_deep):
        monkeypatch.setattr(module, "read_rows", lambda name: tables.get(name, []))
        monkeypatch.setattr(module, "epochs_of", lambda rows: "2 epochs")
    monkeypatch.setattr(report_deep, "read_curve", lambda row, column: [9.0, float(row["curve"])])
    return tables


def cells(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")][2:]


def test_reports_without_lines_name_no_figures(lines):
    assert report_deep.deep() == report_deep.growth() == "No run yet.\n" and report_deep.growth_points() == []


def test_differences_are_paired_and_have_exact_intervals(lines):
    for seed, plain, moex in (("10", 87, 88), ("11", 88, 90), ("12", 86, 89)):  # errors differ by -1, -2 and -3
        lines["study"] += [run("cpu-deep", "baseline", seed, plain), run("cpu-deep", "moex", seed, moex, "0.4")]
    lines["study"].append(run("cpu-deep", "moex", "13", 10))  # has no baseline of its seed
    [primary] = cells(report_deep.deep())
    assert primary[:3] == ["MoEx minus baseline", "-2.00 [-4.48, +0.48]", "-0.100 [-0.100, -0.100]"]
    assert primary[3:] == ["–", "–", "3"]


def test_two_devices_pairs_are_also_shown_together(lines):
    for preset, seed, moex in (("cpu-deep", "10", 88), ("cpu-deep", "11", 90), ("gpu-deep", "20", 92)):
        lines["study"] += [run(preset, "baseline", seed, 87), run(preset, "moex", seed, moex)]
    cpu, gpu, together = report_deep.deep().split("**m**")[1:]
    assert "presets cpu-deep and gpu-deep together" in together
    assert [cells(text)[0][1] for text in (cpu, gpu)] == ["-2.00 [-14.71, +10.71]", "-5.00"]
    assert cells(together)[0][1:] == ["-3.00 [-7.97, +1.97]", "+0.000 [+0.000, +0.000]", "–", "–", "3"]


def test_a_single_seed_has_no_interval_and_cutmix_is_compared_with_cutmix(lines):
    top1 = {"baseline": 88, "cutmix": 89, "cutmix_moex": 90, "cutmix_moex_lam05": 87}
    lines["study"] += [run("cpu-deep-long", method, "10", value) for method, value in top1.items()]
    found = {row[0]: row[1] for row in cells(report_deep.deep())}
    assert found == {
        "CutMix minus baseline": "-1.00",
        "CutMix + MoEx minus baseline": "-2.00",
        "CutMix + MoEx minus CutMix": "-1.00",
        "CutMix + MoEx, λ = 0.5 minus CutMix": "+2.00",
    }


def test_corrupted_images_and_calibration_join_when_they_were_measured(lines):
    for seed, error in (("10", "30"), ("11", "34")):
        lines["study"] += [run("cpu-deep", method, seed, 88) for method in ("baseline", "moex")]
        for method, gain in (("baseline", 0), ("moex", 3)):
            for kind, value, ece in (("clean", "11", 4), ("jpeg", error, 9), ("blur", error, 9)):
                lines["robustness"].append(
                    FACTS
                    | dict(
                        preset="cpu-deep",
                        method=method,
                        seed=seed,
                        corruption=kind,
                        severity="1",
                        error=str(float(value) - gain),
                        ece=str(ece + gain),
                    )
                )
    assert cells(report_deep.deep())[0][3:5] == ["-3.0 [-3.0, -3.0]", "+3.0 [+3.0, +3.0]"]


def test_times_are_compared_within_a_day():
    def timed(date, seconds):
        return FACTS | dict(date=date, cpu_seconds=seconds)

    baseline = [timed("1", "300"), timed("2", "100")]
    assert _rows.cost([timed("2", "110")], baseline) == "1.10"
    assert _rows.cost([timed("3", "110"), timed("1", "")], baseline) == "–"


def test_growth_has_a_point_for_each_size_with_pairs_in_order_of_size(lines):
    for preset, gain in (("cpu-growth-5000", 0), ("cpu-growth-250", 4), ("cpu-deep", 1)):
        for seed in ("10", "11"):
            lines["study"] += [
                run(preset, "baseline", seed, 80, "0.9", "0.2"),
                run(preset, "moex", seed, 80 + gain, "0.7"),
            ]
    lines["study"].append(run("cpu-growth-500", "moex", "10", 80))  # its baseline is still training
    points = report_deep.growth_points()
    assert [(point.images, point.errors) for point in points] == [(250, [-4, -4]), (2000, [-1, -1]), (5000, [0, 0])]
    assert points[0].gaps == pytest.approx([0.7, 0.7]) and points[0].losses == pytest.approx([-0.2, -0.2])
    first = cells(report_deep.growth())[0]
    assert first == ["250", "20.00 ± 0.00", "0.700 ± 0.000", "-4.00 [-4.00, -4.00]", "-0.200 [-0.200, -0.200]", "2"]


def test_growth_stays_out_of_the_studys_tables_and_the_front_page(lines):
    lines["study"] += [run("cpu-growth-250", method, "10", 80) for method in ("baseline", "moex")]
    assert report.study() == "No run yet.\n" and "cpu-growth" not in report.summary()


def test_front_page_waits_for_a_baseline_that_is_missing(lines):
    lines["study"].append(run("cpu-deep", "moex", "10", 88))
    assert "| m, Fashion-MNIST (cpu-deep), test error, % | – |" in report.summary()


def test_growth_is_drawn_with_and_without_intervals(lines, monkeypatch):
    plots = pytest.importorskip("benchmarks.study.report_plots", reason="needs matplotlib", exc_type=ImportError)
    assert plots.growth() == {}
    for preset, seeds in (("cpu-growth-250", ("10", "11")), ("cpu-growth-500", ("10",))):
        for seed in seeds:
            lines["study"] += [
                run(preset, "baseline", seed, 80, "0.9"),
                run(preset, "moex", seed, 83 + int(seed), "0.7"),
            ]
    figure = plots.growth()["growth"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["250", "500"]
    assert len(figure.axes) == 2 and all(axes.has_data() for axes in figure.axes)


def test_a_study_that_leaves_domains_out_shows_whole_seeds_only(monkeypatch):
    columns = ("seed", "held_out", "method", "top1")
    runs = [(s, d, m, 60 + 2 * (m != "baseline") + s) for s in (20, 21) for d in pacs.DOMAINS for m in pacs.METHODS]
    rows = [FACTS | dict(zip(columns, map(str, run)), monitored_top1="90") for run in runs]
    monkeypatch.setattr(report_shift, "read_rows", lambda name: rows)
    assert cells(report_shift.pacs())[1][5:] == ["+2.00 [+2.00, +2.00]", "+0.00 [+0.00, +0.00]", "2"]
    del rows[-1]
    told = report_shift.pacs()
    assert told.startswith("23 of 60 runs have finished") and cells(told)[1][5:] == ["+2.00", "+0.00", "1"]
    del rows[11:]
    assert cells(report_shift.pacs()) == []


def test_cifar10_pairs_seeds_within_a_number_of_labels(monkeypatch):
    runs = [("4000", m, s, t) for s, m, t in [("40", "baseline", 70), ("40", "moex", 72), ("41", "moex", 99)]]
    runs += [("4000", "baseline", "42", 71), ("4000", "moex", "42", 71), ("1000", "baseline", "40", 50)]
    runs += [("4000", "cutmix", s, 75) for s in ("40", "42")] + [("4000", "cutmix+moex", s, 76) for s in ("40", "42")]
    rows = [FACTS | dict(zip(("labels", "method", "seed", "test_top1"), run), test_loss="1") for run in runs]
    monkeypatch.setattr(report_shift, "read_rows", lambda name: rows)
    lines = cells(report_shift.cifar10())
    assert [line[:4] + line[-1:] for line in lines] == [
        ["1,000", "baseline", "50.00", "", "1"],
        ["4,000", "baseline", "29.50 ± 0.50", "", "2"],
        ["4,000", "MoEx", "19.33 ± 9.17", "-1.00 [-13.71, +11.71]", "3"],
        ["4,000", "CutMix", "25.00 ± 0.00", "-4.50 [-10.85, +1.85]", "2"],
        ["4,000", "CutMix + MoEx", "24.00 ± 0.00", "-5.50 [-11.85, +0.85]", "2"],
        ["4,000", "CutMix + MoEx minus CutMix", "", "-1.00 [-1.00, -1.00]", "2"],
    ]
