"""Means, paired differences and exact intervals over seeds."""

import math
import random

import pytest

from timm_moex.comparison.statistics import (
    format_interval,
    format_mean,
    interval,
    mean_se,
    paired,
    t_probability,
    t_quantile,
)


def test_mean_and_standard_error_over_seeds():
    mean, se = mean_se([1.0, 2.0, 6.0])
    assert mean == 3 and math.isclose(se, math.sqrt(7) / math.sqrt(3))
    assert format_mean([1.0, 2.0, 6.0]) == "3.00 ± 1.53"
    assert (format_mean([4.0], sign=True), format_mean([])) == ("+4.00", "–")


def test_differences_are_taken_within_a_seed():
    assert paired({"0": 5.0, "1": 3.0, "2": 9.0}, {"1": 1.0, "0": 4.0}) == [1.0, 2.0]


def integral(t: float, freedom: int, steps: int = 2000) -> float:
    """Simpson's rule over the density of Student's t, from -t to t."""
    log_norm = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)

    def density(x: float) -> float:
        return math.exp(log_norm - (freedom + 1) / 2 * math.log1p(x * x / freedom))

    width = t / steps
    inner = sum((4 if k % 2 else 2) * density(k * width) for k in range(1, steps))
    return 2 * width / 3 * (density(0) + inner + density(t))


@pytest.mark.parametrize("freedom", range(1, 61))
def test_quantile_encloses_its_share_of_the_density(freedom):
    for confidence in (0.5, 0.95, 0.99):
        assert integral(t_quantile(freedom, confidence), freedom) == pytest.approx(confidence, abs=1e-7)


@pytest.mark.parametrize("freedom, quantile", [(1, 12.706), (2, 4.303), (4, 2.776), (7, 2.365), (30, 2.042)])
def test_quantile_is_the_one_of_printed_tables(freedom, quantile):
    assert t_quantile(freedom) == pytest.approx(quantile, abs=5e-4)


def test_probability_grows_from_nothing_to_one():
    assert t_probability(0, 5) == 0 and t_probability(1e9, 4) == pytest.approx(1)


def test_interval_covers_the_true_mean_as_often_as_it_states():
    draw = random.Random(0)
    runs = [[draw.gauss(3, 2) for _ in range(4)] for _ in range(4000)]
    assert sum(low <= 3 <= high for low, high in map(interval, runs)) / len(runs) == pytest.approx(0.95, abs=0.01)


def test_interval_is_formatted_with_signs_and_a_single_value_has_none():
    assert format_interval([-1.0, -2.0, -3.0], 1) == "-2.0 [-4.5, +0.5]"
    assert (format_interval([0.5]), format_interval([])) == ("+0.50", "–")
    assert all(math.isnan(bound) for bound in interval([1.0]))


@pytest.mark.parametrize("freedom, confidence", [(0, 0.95), (3, 0.0), (3, 1.0)])
def test_a_quantile_that_does_not_exist_is_an_error(freedom, confidence):
    with pytest.raises(ValueError, match="freedom=0|confidence="):
        t_quantile(freedom, confidence)
