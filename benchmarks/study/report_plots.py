"""Draw the figures of benchmarks/README.md from the CSV files in benchmarks/results. Requires matplotlib.

python -m benchmarks.study.report_plots
"""

from collections.abc import Sequence

from matplotlib.figure import Figure

from timm_moex.comparison.statistics import interval, mean_se, paired

from .._results import RESULTS, grouped, read_rows
from . import pacs
from ._held_out import means
from ._rows import METHODS, by_seed, in_order, read_curve, test_error, validation_top1
from .report import study_rows
from .report_deep import growth_points
from .report_shift import PARTS, whole_seeds

COLOURS = {
    "baseline": "#5f6368",
    "mixup": "#edae49",
    "cutmix": "#8d6a9f",
    "moex": "#00798c",
    "moex_lam1": "#7fc4ce",
    "cutmix_moex": "#d1495b",
    "cutmix_moex_lam05": "#7a1f3d",
    "smoothing": "#a3b18a",
}

PACS_METHODS = {
    "mixstyle": ("MixStyle", "#edae49"),
    "mixstyle_other": ("MixStyle, donors from other domains", "#7f4f24"),
}
CIFAR_METHODS = {
    name: (METHODS[name.replace("+", "_")], COLOURS[name.replace("+", "_")])
    for name in ("moex", "cutmix", "cutmix+moex")
}


def learning_curves() -> dict[str, Figure]:
    """Draw accuracy on monitored images and training loss by epoch: thin lines for runs, thick lines for means."""
    figures = {}
    for (preset, model), rows in grouped(study_rows(), "preset", "model").items():
        figure = Figure((10, 4), layout="constrained")
        for axes, (column, label) in zip(
            figure.subplots(1, 2), (("eval_top1", "top-1 on monitored images, %"), ("train_loss", "training loss"))
        ):
            for name, own in in_order(grouped(rows, "method")):
                runs = [read_curve(row, column) for row in own]
                epochs = range(1, len(runs[0]) + 1)
                for run in runs:
                    axes.plot(epochs, run, color=COLOURS[name], linewidth=0.5, alpha=0.5)
                means = [mean_se(values)[0] for values in zip(*runs)]
                axes.plot(epochs, means, color=COLOURS[name], linewidth=2, label=f"{METHODS[name]}, seeds: {len(runs)}")
            axes.set(xlabel="epoch", ylabel=label)
            axes.grid(alpha=0.3)
        figure.axes[0].set_ylim(bottom=_floor(figure.axes[0]))
        figure.axes[1].legend(fontsize=8)
        figure.suptitle(f"{model}, preset {preset}")
        figures[f"curves_{preset}_{model}"] = figure
    return figures


def _floor(axes) -> float:
    """Return the lower limit of the axis, at the lowest eighth of all points, which hides the first steep epochs."""
    values = sorted(value for line in axes.lines for value in line.get_ydata())
    return values[len(values) // 8]


def ablation() -> dict[str, Figure]:
    """Draw the difference in validation accuracy between each candidate and p = 0, paired by seed."""
    figures = {}
    for (preset, model), rows in grouped(read_rows("ablation"), "preset", "model").items():
        variants = grouped(rows, "factor", "value")
        plain = by_seed(variants.get(("p", "0.0"), []), validation_top1)
        shown = {key: paired(by_seed(own, validation_top1), plain) for key, own in variants.items()}
        shown = {key: values for key, values in shown.items() if values and key != ("p", "0.0")}
        figure = Figure((8, 1 + 0.28 * len(shown)), layout="constrained")
        axes = figure.subplots()
        for place, ((factor, _), values) in enumerate(shown.items()):
            colour = COLOURS["moex" if factor == "reference" else "cutmix" if "ix" in factor else "baseline"]
            axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.45, markersize=5)
            axes.plot(mean_se(values)[0], place, "|", color=colour, markersize=14, markeredgewidth=2.5)
        axes.axvline(0, color="#333333", linestyle=":")
        axes.set(
            xlabel="validation top-1 minus p = 0, percentage points (dots: seeds, bar: mean)",
            yticks=range(len(shown)),
            yticklabels=["reference" if f == "reference" else f"{f} = {v}" for f, v in shown],
        )
        figure.suptitle(
            f"{model}, preset {preset}: one setting changed at a time, higher is better\n(violet: with Mixup or CutMix)"
        )
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
        figures[f"ablation_{preset}_{model}"] = figure
    return figures


def robustness() -> dict[str, Figure]:
    """Draw error by severity, a panel for each corruption."""
    figures = {}
    for (preset, model), rows in grouped(read_rows("robustness"), "preset", "model").items():
        kinds = [kind for kind in dict.fromkeys(row["corruption"] for row in rows) if kind != "clean"]
        columns = 4
        figure = Figure((11, 2.3 * -(-len(kinds) // columns)), layout="constrained")
        panels = figure.subplots(-(-len(kinds) // columns), columns, sharex=True, sharey=True, squeeze=False).flat
        for axes, kind in zip(panels, kinds):
            for name, own in in_order(grouped([row for row in rows if row["corruption"] == kind], "method")):
                points = {severity: part for (severity,), part in grouped(own, "severity").items()}
                means = [mean_se([float(row["error"]) for row in part])[0] for part in points.values()]
                axes.plot(list(points), means, "o-", color=COLOURS[name], markersize=3, label=METHODS[name])
            axes.set_title(kind, fontsize=9)
            axes.grid(alpha=0.3)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
        for axes in figure.axes[-columns:]:
            axes.set_xlabel("severity")
        figure.supylabel("error, %")
        figure.suptitle(f"Error on corrupted images, lower is better: {model}, preset {preset}")
        figures[f"robustness_{preset}_{model}"] = figure
    return figures


def domain_shift() -> dict[str, Figure]:
    """Draw accuracy on each part by held-out style: a dot for each seed, a bar for the mean."""
    rows = [row for row in read_rows("domain_shift") if row["phase"] == "study"]
    held_out_styles = grouped(rows, "held_out_style")
    if not held_out_styles:
        return {}
    figure = Figure((11, 4), layout="constrained")
    for axes, (column, label) in zip(figure.subplots(1, len(PARTS), sharey=True), PARTS.items()):
        for place, own in enumerate(held_out_styles.values()):
            methods = grouped(own, "method")
            for k, ((name,), runs) in enumerate(methods.items()):
                where = place + (k - (len(methods) - 1) / 2) * 0.2
                values, colour = [float(row[column]) for row in runs], COLOURS[name.replace("+", "_")]
                axes.plot([where] * len(values), values, "o", color=colour, alpha=0.45, markersize=4)
                mean, legend = mean_se(values)[0], METHODS[name.replace("+", "_")] if place == 0 else None
                axes.plot(where, mean, "_", color=colour, markersize=12, markeredgewidth=2.5, label=legend)
        axes.set(title=label, xticks=range(len(held_out_styles)), ylabel="top-1, % (higher is better)")
        axes.set_xticklabels([held_out for (held_out,) in held_out_styles])
        axes.grid(axis="y", alpha=0.3)
    figure.axes[-1].legend(fontsize=8)
    figure.supxlabel("held-out style", fontsize=9)
    figure.suptitle("On a drawing style not trained on, MoEx makes no measurable difference", fontweight="bold")
    return {"domain_shift": figure}


def growth() -> dict[str, Figure]:
    """Draw MoEx minus baseline over the baseline's gap between test and training loss, by number of training images."""
    points = growth_points()
    if not points:
        return {}
    figure = Figure((10, 4.6), layout="constrained")
    panels = (("errors", "test error", "percentage points"), ("losses", "test loss", "nats"))
    for axes, (name, label, unit) in zip(figure.subplots(1, 2), panels):
        for point in points:
            values = getattr(point, name)
            gap, mean = mean_se(point.gaps)[0], mean_se(values)[0]
            reach = [[abs(bound - mean)] for bound in interval(values)] if len(values) > 1 else None
            axes.plot(point.gaps, values, "o", color=COLOURS["moex"], alpha=0.35, markersize=4)
            axes.errorbar([gap], [mean], yerr=reach, fmt="o", color=COLOURS["moex"], capsize=3)
            axes.annotate(f"{point.images:,}", (gap, mean), xytext=(7, 5), textcoords="offset points", fontsize=9)
        axes.margins(x=0.15)
        axes.axhline(0, color="#333333", linestyle=":")
        axes.set(
            title=f"{label}: lower is better",
            xlabel="how much the baseline overfits (test loss minus training loss)",
            ylabel=f"MoEx minus baseline, {unit}",
        )
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    title = "On Fashion-MNIST, the more a network overfits,\nthe more MoEx lowers its test loss"
    figure.suptitle(title, x=0.01, horizontalalignment="left", fontweight="bold")
    note = "Numbers: training images. Small dots: seeds. Bars: 95 % intervals of the paired differences."
    figure.supxlabel(note, fontsize=9)
    return {"growth": figure}


def pacs_cifar10() -> dict[str, Figure]:
    """Draw the changes in test error on PACS, by held-out domain, and on CIFAR-10, with 95 % intervals over seeds."""
    pacs_rows = whole_seeds(read_rows("pacs"), pacs.DOMAINS, pacs.METHODS)
    cifar_rows = [row for row in read_rows("cifar10") if row["labels"] == "4000"]
    panels = []
    if pacs_rows:
        groups = {**{name.replace("_", " "): (name,) for name in pacs.DOMAINS}, "mean": pacs.DOMAINS}
        panels.append(("PACS: error on the held-out domain", pacs_rows, groups, PACS_METHODS))
    if cifar_rows:
        panels.append(("CIFAR-10 with 4,000 labels: test error", cifar_rows, {"": ()}, CIFAR_METHODS))
    if not panels:
        return {}
    figure = Figure((5.5 * len(panels), 3.6), layout="constrained")
    for axes, (title, rows, groups, methods) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels):
        offsets = [(k - (len(methods) - 1) / 2) * 0.25 for k in range(len(methods))]
        one_group = len(groups) == 1
        for place, held_out in enumerate(groups.values()):
            for offset, (method, (label, colour)) in zip(offsets, methods.items()):
                baseline, own = (_errors(rows, name, held_out) for name in ("baseline", method))
                values = paired(own, baseline)
                y = place + offset
                mean = mean_se(values)[0]
                reach = [[abs(bound - mean)] for bound in interval(values)] if len(values) > 1 else None
                axes.plot(values, [y] * len(values), "o", color=colour, alpha=0.35, markersize=4)
                axes.errorbar(
                    [mean], [y], xerr=reach, fmt="D", color=colour, capsize=3, label=label if place == 0 else None
                )
        axes.axvline(0, color="#333333", linestyle=":")
        ticks = dict(zip(groups, range(len(groups))))
        if one_group:  # name the rows after the methods, instead of a legend
            ticks = {label: y for (label, _), y in zip(methods.values(), offsets)}
        axes.set(
            title=f"{title}, {len({row['seed'] for row in rows})} seeds",
            xlabel="error minus baseline, percentage points: lower is better",
            yticks=list(ticks.values()),
            yticklabels=list(ticks),
        )
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if not one_group:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, fontsize=8)
    figure.supxlabel("Small dots: seeds. Bars: 95 % intervals of the paired differences.", fontsize=9)
    return {"pacs_cifar10": figure}


def _errors(rows: Sequence[dict], method: str, held_out: Sequence[str]) -> dict[str, float]:
    """Map each seed to a method's test error in percent, the mean over these groups if there are any."""
    if held_out:
        return {seed: 100 - top1 for seed, top1 in means(rows, method, held_out).items()}
    return by_seed([row for row in rows if row["method"] == method], test_error)


def main() -> None:
    for draw in (learning_curves, ablation, robustness, domain_shift, growth, pacs_cifar10):
        for name, figure in draw().items():
            figure.savefig(RESULTS / f"{name}.png", dpi=110)
            print(RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
