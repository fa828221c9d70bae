"""Make the tables of the presets with a plan written before their first run: cpu-deep, gpu-*, full and cpu-growth-*.

Differences are paired by seed and have 95 % intervals (Student's t, n - 1 degrees of freedom).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from timm_moex.comparison.statistics import format_interval, format_mean, paired

from .._markdown import table
from .._results import grouped, read_rows
from ._rows import (
    GROWTH,
    METHODS,
    NONE,
    by_seed,
    epochs_of,
    mean_by_seed,
    presets,
    read_curve,
    source,
    test_error,
    test_loss,
)

DEEP = ("cpu-deep", "gpu-deep", "cpu-deep-long", "gpu-deep-long", "gpu-all", "full")
TOGETHER = ("cpu-deep", "gpu-deep")  # one experiment on two devices: same settings, different seeds
COMPARISONS = (  # the first is the primary one
    ("moex", "baseline"),
    ("moex_lam1", "baseline"),
    ("mixup", "baseline"),
    ("cutmix", "baseline"),
    ("cutmix_moex", "baseline"),
    ("cutmix_moex", "cutmix"),
    ("cutmix_moex_lam05", "cutmix"),
)
CLASSES = 10  # of Fashion-MNIST: presets.yaml counts the images of a class
Figures = dict[str, dict[str, float]]  # method → seed → figure


def outcomes(names: Collection[str]) -> dict[str, tuple[Figures, int]]:
    """Collect the figures and the number of digits of each outcome, for presets without common seeds."""
    runs = grouped([row for row in read_rows("study") if row["preset"] in names], "method")
    looks = grouped([row for row in read_rows("robustness") if row["preset"] in names], "method")
    kinds = {row["corruption"] for rows in looks.values() for row in rows} - {"clean"}
    return {
        "test error, points": ({method: by_seed(rows, test_error) for (method,), rows in runs.items()}, 2),
        "test loss": ({method: by_seed(rows, test_loss) for (method,), rows in runs.items()}, 3),
        "error on corrupted images, points": (_looked_at(looks, "error", sorted(kinds)), 1),
        "ECE on clean images, points": (_looked_at(looks, "ece", ["clean"]), 1),
    }


def _looked_at(looks: Mapping[tuple[str, ...], Sequence[dict]], column: str, kinds: Sequence[str]) -> Figures:
    return {method: mean_by_seed(rows, column, kinds) for (method,), rows in looks.items()}


def deep() -> str:
    """Format paired differences with intervals, in a table for each of `DEEP` and one for `TOGETHER`."""
    found = {row["preset"] for row in read_rows("study")}
    tables = [differences((preset,)) for preset in DEEP if preset in found]
    if found.issuperset(TOGETHER):
        tables.insert(len(TOGETHER), differences(TOGETHER))
    return "\n".join(tables) or NONE


def differences(names: Sequence[str]) -> str:
    """Format the table of paired differences over the runs of some presets."""
    rows = [row for row in read_rows("study") if row["preset"] in names]
    found, lines = outcomes(names), []
    for method, other in COMPARISONS:
        pairs = [paired(f.get(method, {}), f.get(other, {})) for f, _ in found.values()]
        if pairs[0]:
            cells = [
                format_interval(values, digits)
                + (f" ({len(values)})" if values and len(values) != len(pairs[0]) else "")
                for values, (_, digits) in zip(pairs, found.values())
            ]
            lines.append([f"{METHODS[method]} minus {METHODS[other]}", *cells, str(len(pairs[0]))])
    models = ", ".join(dict.fromkeys(row["model"] for row in rows))
    name = f"preset {names[0]}" if len(names) == 1 else f"presets {' and '.join(names)} together"
    title = f"**{models}**, {name}, {epochs_of(rows)}, mean difference [95 % interval] (pairs, if fewer)"
    return f"{title}:\n\n{table(['', *found, 'pairs'], lines)}\n{source(rows)}"


@dataclass(frozen=True)
class GrowthPoint:
    """Effect of MoEx for one number of training images, with a value for each seed of both methods.

    Attributes:
        images: Number of training images.
        baseline: Test error of the baseline, in percent.
        gaps: Test loss minus training loss of the baseline, both after the last epoch.
        errors: Difference in test error, MoEx minus baseline, in percentage points.
        losses: Difference in test loss, MoEx minus baseline.
        rows: Lines of both methods.
    """

    images: int
    baseline: list[float]
    gaps: list[float]
    errors: list[float]
    losses: list[float]
    rows: list[dict]


def growth_points() -> list[GrowthPoint]:
    """Compute a point for each number of training images with pairs of runs, in increasing order."""
    points = []
    for name, config in presets().items():
        if name != DEEP[0] and not name.startswith(GROWTH):
            continue
        methods = grouped([row for row in read_rows("study") if row["preset"] == name], "method")
        both = {row["seed"] for row in methods.get(("baseline",), [])} & {
            row["seed"] for row in methods.get(("moex",), [])
        }
        plain, moex = ([row for row in methods.get((m,), []) if row["seed"] in both] for m in ("baseline", "moex"))
        if not both:
            continue
        errors, losses = (paired(by_seed(moex, value), by_seed(plain, value)) for value in (test_error, test_loss))
        gaps = [test_loss(row) - read_curve(row, "train_loss")[-1] for row in plain]
        images = CLASSES * config["train_per_class"]
        points.append(GrowthPoint(images, [test_error(row) for row in plain], gaps, errors, losses, plain + moex))
    return sorted(points, key=lambda point: point.images)


def growth() -> str:
    """Format the effect of MoEx and the baseline's gap between test and training loss, by number of training images."""
    lines, rows = [], []
    for point in growth_points():
        cells = [format_mean(point.baseline), format_mean(point.gaps, 3)]
        cells += [format_interval(point.errors), format_interval(point.losses, 3), str(len(point.errors))]
        lines.append([f"{point.images:,}", *cells])
        rows += point.rows
    if not lines:
        return NONE
    head = ["training images", "baseline's test error, %", "its test loss minus training loss"]
    head += ["MoEx minus baseline, test error, points [95 %]", "test loss [95 %]", "seeds"]
    return f"{table(head, lines)}\n{source(rows)}\n![gain by gap](results/growth.png)\n"
