"""Figures over seeds: means, standard errors, paired differences."""

import math
import statistics
from collections.abc import Mapping, Sequence


def mean_se(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error (nan for a single value)."""
    mean = statistics.fmean(values)
    return mean, statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def paired(values: Mapping[str, float], others: Mapping[str, float]) -> list[float]:
    """`values - others` for every seed that both have, in the order of `values`."""
    return [value - others[seed] for seed, value in values.items() if seed in others]


def format_mean(values: Sequence[float], digits: int = 2, sign: bool = False) -> str:
    """`mean ± standard error`; without the latter for a single value, a dash for none."""
    if not values:
        return "–"
    mean, se = mean_se(values)
    number = f"{mean:+.{digits}f}" if sign else f"{mean:.{digits}f}"
    return number if math.isnan(se) else f"{number} ± {se:.{digits}f}"
