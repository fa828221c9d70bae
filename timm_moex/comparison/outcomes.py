"""Outcomes of the finished runs of a comparison, by method and seed, paired with the baseline."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .methods import BASELINE
from .plan import Plan
from .run import Run
from .statistics import interval, paired, pairs_needed

__all__ = ["CIFAR10", "STUDY", "Figures", "Outcome", "gap_in_words", "mean_over_groups", "read_outcomes", "verdict"]

# The study's presets cpu-growth-* and cpu-deep, MoEx in ResNet-20 on parts of Fashion-MNIST (benchmarks/README.md):
# the baseline's test loss minus its training loss, and MoEx's test error minus the baseline's, in points
STUDY = ((1.43, -3.2), (1.05, -1.3), (0.75, -0.9), (0.59, -0.7), (0.22, -0.1))
CIFAR10 = ((2.96, -1.5), (1.18, -0.3), (0.1, 1.5))  # the same on 1,000, 4,000 and 20,000 images of CIFAR-10
_MANY_PAIRS = 100


class Outcome(NamedTuple):
    """Metrics of a run after its last epoch, or their mean over the groups.

    Attributes:
        error: In percent, on the test split or the held-out group if there is one, otherwise on the evaluation split.
        loss: Cross-entropy on the same images.
        train_loss: Loss on the samples' own labels if the run recorded it, otherwise the loss that was minimised.
        seconds: Time per epoch; on a CPU, processor time, because other jobs may be running.
    """

    error: float
    loss: float
    train_loss: float
    seconds: float

    @property
    def gap(self) -> float:
        """Loss on the images of `error` minus the training loss."""
        return self.loss - self.train_loss


Figures = dict[str, dict[str, Outcome]]  # method → seed → outcome


def read_outcomes(plan: Plan) -> dict[str, Figures]:
    """Read the finished runs as group → method → seed → outcome; the group is "" unless groups are held out."""
    metric = "top5" if plan.settings.get("eval_metric") == "top5" else "top1"
    found: dict[str, Figures] = {group: {m: {} for m in plan.methods} for group in plan.groups or ("",)}
    for run in plan.runs():
        if run.is_finished:
            found[run.group][run.method][str(run.seed)] = _outcome(run, metric)
    return found


def _outcome(run: Run, metric: str) -> Outcome:
    result: Any = run.result
    judged = result["test"] if run.has_test else result["metrics"]
    train_loss = result["train"].get("train_loss_own", result["train"]["train_loss"])
    clock = "cpu_seconds_per_epoch" if result["environment"]["device"] == "cpu" else "seconds_per_epoch"
    return Outcome(100 - judged[metric], judged["loss"], train_loss, result[clock] or math.nan)


def mean_over_groups(by_group: Mapping[str, Figures]) -> Figures:
    """Average over the groups, for each method and seed that is finished in all of them."""
    means: Figures = {method: {} for method in next(iter(by_group.values()))}
    for method in means:
        first, *others = (figures[method] for figures in by_group.values())
        for seed in first:
            if all(seed in other for other in others):
                outcomes = [first[seed], *(other[seed] for other in others)]
                means[method][seed] = Outcome(*map(statistics.fmean, zip(*outcomes)))
    return means


def values(figures: Figures, method: str, key: str) -> dict[str, float]:
    """Map each seed to one metric of a method, an attribute of `Outcome`."""
    return {seed: getattr(outcome, key) for seed, outcome in figures[method].items()}


def differences(figures: Figures, method: str, key: str) -> list[float]:
    """Return a method's metric minus the baseline's for each seed that both have."""
    return paired(values(figures, method, key), values(figures, BASELINE, key))


def verdict(method: str, errors: Sequence[float]) -> str:
    """Summarise in a sentence how a method changes the error, given its differences from the baseline in points."""
    if not errors:
        return f"{method}: no pair of runs with the baseline yet."
    mean, count = statistics.fmean(errors), len(errors)
    if count == 1:
        return f"{method}: {mean:+.2f} points in one pair, too few for an interval; train at least 3 seeds."
    low, high = interval(errors)
    if low > 0 or high < 0:
        verb, (near, far) = ("lowers", (-high, -low)) if high < 0 else ("raises", (low, high))
        return f"{method} {verb} the error by {abs(mean):.2f} points ({near:.2f} to {far:.2f}, {count} pairs)."
    bound = max(-low, high)
    if bound == 0:
        return f"{method}: the errors are equal in all {count} pairs."
    start = (
        f"{method}: no measurable difference; {count} pairs rule out a change of {bound:.2f} points or more "
        f"({mean:+.2f}, from {low:+.2f} to {high:+.2f})"
    )
    needed = pairs_needed(mean, statistics.stdev(errors), limit=_MANY_PAIRS)
    if needed is None:
        return f"{start}. It would take more than {_MANY_PAIRS} pairs to tell a difference this small from 0."
    return f"{start}. It would take about {needed} pairs to tell {abs(mean):.2f} points from 0."


def gap_in_words(gaps: Sequence[float]) -> str:
    """Describe how much the baseline overfits (`gap` of each run), and what our study measured at a similar gap."""
    gap = statistics.fmean(gaps)
    above = [point for point in reversed(STUDY) if point[0] >= gap][:1]
    below = [point for point in STUDY if point[0] < gap][:1]
    found = [f"{error:+.1f} points at {'a gap of ' * (not i)}{at}" for i, (at, error) in enumerate(below + above)]
    position = "above" if gap >= 0 else "below"
    extreme = "small" if not below else "large" if not above else ""
    beyond = f" The study has no gap this {extreme}." if extreme else ""
    cifar10 = ", ".join(f"{error:+.1f} at {at}" for at, error in CIFAR10)
    return (
        f"The baseline's loss on unseen images is {abs(gap):.2f} {position} its training loss. In our study MoEx "
        f"changed the error by {' and by '.join(found)} (ResNet-20, parts of Fashion-MNIST); on parts of CIFAR-10, by "
        f"{cifar10}. Other data may behave differently.{beyond}"
    )
