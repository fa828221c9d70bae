"""The sentences of a report claim only what the pairs support."""

import pytest

from benchmarks._results import grouped, read_rows
from benchmarks.study import _rows
from benchmarks.study.report_deep import growth_points
from timm_moex.comparison.outcomes import CIFAR10, STUDY, Outcome, gap_in_words, mean_over_groups, verdict
from timm_moex.comparison.report import table
from timm_moex.comparison.statistics import paired, pairs_needed


@pytest.mark.parametrize(
    "errors, sentence",
    [
        ([], "moex: no pair of runs with the baseline yet."),
        ([-0.7], "moex: -0.70 points in one pair, too few for an interval; train at least 3 seeds."),
        ([-0.6, -0.8, -0.7], "moex lowers the error by 0.70 points (0.45 to 0.95, 3 pairs)."),
        ([0.6, 0.8, 0.7], "moex raises the error by 0.70 points (0.45 to 0.95, 3 pairs)."),
        (
            [0.5, -0.6, 0.1],
            "moex: no measurable difference; 3 pairs rule out a change of 1.38 points or more "
            "(+0.00, from -1.38 to +1.38). It would take more than 100 pairs to tell a difference this small from 0.",
        ),
        (
            [-0.4, 0.0, -0.2, 0.1],
            "moex: no measurable difference; 4 pairs rule out a change of 0.48 points or more "
            "(-0.12, from -0.48 to +0.23). It would take about 15 pairs to tell 0.12 points from 0.",
        ),
        ([0.0, 0.0], "moex: the errors are equal in all 2 pairs."),
    ],
)
def test_a_sentence_for_each_method(errors, sentence):
    assert verdict("moex", errors) == sentence


def test_pairs_needed_are_the_least_with_an_interval_that_excludes_zero():
    assert pairs_needed(0.7, 0.1) == 3  # t(2) = 4.303, t(1) = 12.706
    assert pairs_needed(-1.0, 0.1) == 2
    assert pairs_needed(0.0, 1.0) is None and pairs_needed(0.1, 1.0) is None
    assert pairs_needed(0.1, 1.0, limit=1000) == 387  # about (1.96 / 0.1) ** 2


def test_the_quoted_study_results_match_its_tables():
    found = [(sum(p.gaps) / len(p.gaps), sum(p.errors) / len(p.errors)) for p in growth_points()]
    assert tuple((round(gap, 2), round(error, 1)) for gap, error in found) == STUDY


def test_the_quoted_results_on_cifar10_match_its_table():
    runs, found = grouped(read_rows("cifar10"), "labels", "method"), []
    for labels in ("1000", "4000", "20000"):
        baseline = runs[labels, "baseline"]
        gaps = [float(row["test_loss"]) - float(row["train_loss_own"]) for row in baseline]
        errors = paired(*(_rows.by_seed(part, _rows.test_error) for part in (runs[labels, "moex"], baseline)))
        found.append((round(sum(gaps) / len(gaps), 2), round(sum(errors) / len(errors), 1)))
    assert tuple(found) == CIFAR10
    assert "on parts of CIFAR-10, by -1.5 at 2.96, -0.3 at 1.18, +1.5 at 0.1." in gap_in_words([1.0])


@pytest.mark.parametrize(
    "gap, words",
    [
        (0.62, "-0.7 points at a gap of 0.59 and by -0.9 points at 0.75"),
        (0.05, "-0.1 points at a gap of 0.22 (ResNet-20, parts of Fashion-MNIST); .* The study has no gap this small."),
        (2.0, "-3.2 points at a gap of 1.43 .* The study has no gap this large."),
        (-0.3, "0.30 below its training loss"),
    ],
)
def test_the_report_compares_the_baselines_gap_with_the_study(gap, words):
    import re

    assert re.search(words.replace("(", r"\(").replace(")", r"\)"), gap_in_words([gap - 0.01, gap + 0.01]))


def figures(**errors):
    return {m: {str(i): Outcome(e, 1.0, 0.5, 2.0) for i, e in enumerate(own)} for m, own in errors.items()}


def test_the_table_pairs_seeds_and_one_seed_has_no_interval():
    lines = table(figures(baseline=[10.0, 12.0, 14.0], moex=[9.0, 11.5])).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[2][:4] == ["baseline", "3", "12.00 ± 1.15", ""] and cells[3][:3] == ["moex", "2", "10.25 ± 1.25"]
    assert cells[3][3] == "-0.75 [-3.93, +2.43]" and cells[3][6] == "1.00"
    assert "[-" not in table(figures(baseline=[10.0], moex=[9.0])) and "± " not in table(figures(baseline=[10.0]))


def test_the_mean_over_groups_uses_only_complete_seeds():
    groups = {"photo": figures(baseline=[10.0, 20.0]), "sketch": figures(baseline=[30.0])}
    assert mean_over_groups(groups)["baseline"] == {"0": Outcome(20.0, 1.0, 0.5, 2.0)}
