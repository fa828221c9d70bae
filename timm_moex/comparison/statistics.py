"""Statistics over seeds: means, standard errors, paired differences, exact confidence intervals (Student's t)."""

import math
import statistics
from collections.abc import Mapping, Sequence


def mean_se(values: Sequence[float]) -> tuple[float, float]:
    """Compute the mean and its standard error (nan for a single value)."""
    mean = statistics.fmean(values)
    return mean, statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def paired(values: Mapping[str, float], others: Mapping[str, float]) -> list[float]:
    """Compute `values - others` for every seed that both have, in the order of `values`."""
    return [value - others[seed] for seed, value in values.items() if seed in others]


def format_mean(values: Sequence[float], digits: int = 2, sign: bool = False) -> str:
    """Format `mean ± standard error`, only the mean of a single value, or a dash if there are no values."""
    if not values:
        return "–"
    mean, se = mean_se(values)
    number = f"{mean:+.{digits}f}" if sign else f"{mean:.{digits}f}"
    return number if math.isnan(se) else f"{number} ± {se:.{digits}f}"


def t_probability(t: float, freedom: int) -> float:
    """Compute the probability that a Student t with `freedom` degrees of freedom is in [-t, t].

    Uses the finite series of Abramowitz & Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4.
    """
    angle = math.atan2(t, math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= math.cos(angle) ** 2 * k / (k + 1)
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def t_quantile(freedom: int, confidence: float = 0.95) -> float:
    """Find, by bisection, the t for which a Student t is in [-t, t] with probability `confidence`."""
    if freedom < 1:
        raise ValueError(f"freedom={freedom}: expected 1 or more")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: expected a number between 0 and 1")
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < confidence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, freedom) < confidence else (low, middle)
    return (low + high) / 2


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Compute the exact confidence interval of the mean of normal values: Student's t with n - 1 degrees of freedom.

    For paired differences, this is the interval of the mean difference. A single value has no interval: (nan, nan).
    """
    if len(values) < 2:
        return math.nan, math.nan
    mean, se = mean_se(values)
    half = t_quantile(len(values) - 1, confidence) * se
    return mean - half, mean + half


def format_interval(values: Sequence[float], digits: int = 2) -> str:
    """Format `mean [low, high]` of differences, with signs; a single value has no interval, an empty list is a dash."""
    if not values:
        return "–"
    mean, (low, high) = statistics.fmean(values), interval(values)
    return f"{mean:+.{digits}f}" + ("" if math.isnan(low) else f" [{low:+.{digits}f}, {high:+.{digits}f}]")


def pairs_needed(difference: float, deviation: float, confidence: float = 0.95, limit: int = 100) -> int | None:
    """Find the smallest number of pairs for which a mean difference of this size has an interval that excludes 0.

    `deviation` is the standard deviation of the differences; the result is None if `limit` pairs are not enough.
    """
    for count in range(2, limit + 1):
        if t_quantile(count - 1, confidence) * deviation / math.sqrt(count) < abs(difference):
            return count
    return None
