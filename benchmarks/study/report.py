"""Make the tables of benchmarks/README.md, docs/does_it_help.md and README.md from benchmarks/results and weights/.

python -m benchmarks.study.report            print them
python -m benchmarks.study.report --write    put them between their markers
"""

from collections.abc import Sequence
from pathlib import Path

from timm_moex.comparison.statistics import format_mean, paired
from timm_moex.hub.download import WEIGHTS
from timm_moex.hub.manifest import MANIFEST, read_manifest, weights_dir

from .._markdown import main, table
from .._results import ROOT, grouped, read_rows
from ._rows import (
    GROWTH,
    METHODS,
    NONE,
    by_seed,
    cost,
    epochs_of,
    in_order,
    mean_by_seed,
    presets,
    source,
    test_error,
    test_loss,
    validation_top1,
)
from .report_deep import DEEP, deep, growth
from .report_shift import cifar10, digits, domain_shift, pacs, style

README, REPORT = ROOT / "README.md", ROOT / "benchmarks" / "README.md"
NOT_ON_FRONT_PAGE = ("cutmix_moex_lam05", "smoothing")


def study_rows() -> list[dict]:
    """Read study.csv without the presets of `GROWTH`."""
    return [row for row in read_rows("study") if not row["preset"].startswith(GROWTH)]


def study() -> str:
    """Format the presets that are not in `DEEP`, see `methods_table`."""
    return methods_table([row for row in study_rows() if row["preset"] not in DEEP])


def deep_methods() -> str:
    """Format the presets of `DEEP`, see `methods_table`."""
    return methods_table([row for row in study_rows() if row["preset"] in DEEP])


def methods_table(runs: Sequence[dict]) -> str:
    """Format test error and loss of each method, their paired differences from the baseline, and the cost in time."""
    settings_of, parts = presets(), []
    for (preset, model), rows in grouped(runs, "preset", "model").items():
        methods = grouped(rows, "method")
        baseline, lines = methods.get(("baseline",), []), []
        for name, own in in_order(methods):
            settings = ", ".join(settings_of[preset]["methods"][name])
            cells = []
            for value, places in ((test_error, 2), (test_loss, 3)):
                values, others = by_seed(own, value), by_seed(baseline, value)
                difference = "" if name == "baseline" else format_mean(paired(values, others), places, sign=True)
                cells += [format_mean(list(values.values()), places), difference]
            lines.append([METHODS[name], *cells, cost(own, baseline), str(len(own)), f"`{settings}`"])
        head = ["", "test error, %", "minus baseline", "test loss", "minus baseline", "time / baseline", "seeds"]
        head.append("settings")
        parts.append(f"**{model}**, preset {preset}, {epochs_of(rows)}:\n\n{table(head, lines)}\n{source(rows)}\n")
    return "\n".join(parts) or NONE


def ablation() -> str:
    """Format the validation accuracy of all candidates, and their differences from p = 0 and from the reference."""
    parts = []
    for (preset, model), rows in grouped(read_rows("ablation"), "preset", "model").items():
        variants = grouped(rows, "factor", "value")
        others = [by_seed(variants.get(key, []), validation_top1) for key in (("p", "0.0"), ("reference", ""))]
        lines = []
        for (factor, value), own in variants.items():
            values = by_seed(own, validation_top1)
            differences = [format_mean(paired(values, other), sign=True) for other in others]
            label = "**reference**" if factor == "reference" else f"{factor} = {value}"
            lines.append([label, format_mean(list(values.values())), *differences, str(len(own))])
        head = ["", "validation top-1, %", "minus p = 0", "minus reference", "seeds"]
        parts.append(f"**{model}**, preset {preset}:\n\n{table(head, lines)}\n{source(rows)}")
    return "\n".join(parts) or NONE


def robustness() -> str:
    """Format the error for each corruption, averaged over severities, and the calibration error."""
    parts = []
    for (preset, model), rows in grouped(read_rows("robustness"), "preset", "model").items():
        methods = in_order(grouped(rows, "method"))
        kinds = list(dict.fromkeys(row["corruption"] for row in rows))
        wanted = [(kind.replace("_", " "), "error", [kind]) for kind in kinds]
        wanted += [("**mean of all corruptions**", "error", kinds[1:])]
        wanted += [("ECE, clean", "ece", kinds[:1]), ("ECE, corrupted", "ece", kinds[1:])]
        lines = []
        for label, column, of in wanted:
            figures = {name: mean_by_seed(own, column, of) for name, own in methods}
            difference = format_mean(paired(figures.get("moex", {}), figures.get("baseline", {})), 1, sign=True)
            lines.append([label, *(format_mean(list(values.values()), 1) for values in figures.values()), difference])
        head = ["", *(METHODS[name] for name, _ in methods), "MoEx minus baseline"]
        images, seeds = rows[0]["images"], len({row["seed"] for row in rows})
        title = f"**{model}**, preset {preset}, {images} test images, {seeds} seeds"
        parts.append(f"{title}:\n\n{table(head, lines)}\n{source(rows)}")
    return "\n".join(parts) or NONE


def totals() -> str:
    """Count the runs, seeds and hours behind the tables; hours are of processor time if it was measured."""
    lines = []
    for name in ("study", "ablation", "domain_shift", "digits", "pacs", "cifar10"):
        for (device, processor), rows in grouped(read_rows(name), "device", "processor").items():
            seconds = [float(row.get("cpu_seconds") or row["seconds"]) for row in rows if row["seconds"]]
            hours = f"{sum(seconds) / 3600:.1f}" + ("" if len(seconds) == len(rows) else " + interrupted runs")
            seeds = len({row["seed"] for row in rows})
            lines.append([f"`{name}.csv`", str(len(rows)), str(seeds), hours, f"{processor} ({device})"])
    return table(["", "runs", "seeds", "hours (processor time if measured)", "device"], lines) if lines else NONE


def summary() -> str:
    """Format the summary in docs/does_it_help.md: the difference that each method makes, by net or style."""
    lines, names = [], [name for name in METHODS if name not in ("baseline", *NOT_ON_FRONT_PAGE)]
    for (preset, model), rows in grouped(study_rows(), "preset", "model").items():
        methods = {name: by_seed(own, test_error) for name, own in in_order(grouped(rows, "method"))}
        lines.append([f"{model}, Fashion-MNIST ({preset}), test error, %", *_against(methods, names, 2)])
    style_rows = [row for row in read_rows("domain_shift") if row["phase"] == "study"]
    for (held_out,), rows in grouped(style_rows, "held_out_style").items():
        methods = {
            method.replace("+", "_"): by_seed(own, lambda row: 100 - float(row["unseen_emoji_unseen_style"]))
            for (method,), own in grouped(rows, "method").items()
        }
        lines.append([f"tf_efficientnet_lite0, unseen emoji in an unseen style ({held_out}), error, %"])
        lines[-1] += _against(methods, names, 1)
    return table(["", "baseline", *(METHODS[name] for name in names), "seeds"], lines)


def _against(methods: dict[str, dict[str, float]], names: Sequence[str], digits: int) -> list[str]:
    """Format the baseline's mean, and each method's paired difference, with the number of pairs if it differs."""
    baseline = methods.get("baseline", {})
    differences = []
    for values in (paired(methods.get(name, {}), baseline) for name in names):
        fewer = f" ({len(values)})" if 0 < len(values) < len(baseline) else ""
        differences.append(format_mean(values, digits, sign=True) + fewer)
    return [format_mean(list(baseline.values()), digits), *differences, str(len(baseline))]


def zoo_table() -> str:
    """Format the front page's table of the checkpoints in weights/, named as for `timm.create_model`."""
    lines = []
    for entry in sorted(read_manifest(weights_dir() / MANIFEST), key=lambda entry: entry.name):
        size = entry.files[WEIGHTS]["size"] / 1e6
        several = len(entry.seeds) > 1
        spread = f"{entry.top1['mean']:.2f} ± {entry.top1['std']:.2f}" if several else "–"
        lines.append([f"`moex_{entry.name}`", entry.split, f"{entry.top1['value']:.2f}", spread])
        lines[-1] += [str(len(entry.seeds)), f"{size:.1f} MB"]
    head = ["", "evaluated on", "top-1, %", "mean ± standard deviation", "seeds", "size"]
    return table(head, lines, left=2)


def learning_curves() -> str:
    """Link the learning curves of the presets that are not in `DEEP`."""
    return pictures("curves", "learning curves", [row for row in study_rows() if row["preset"] not in DEEP])


def deep_curves() -> str:
    """Link the learning curves of the presets of `DEEP`."""
    return pictures("curves", "learning curves", [row for row in study_rows() if row["preset"] in DEEP])


def robustness_curves() -> str:
    """Link the figures of the errors on corrupted images."""
    return pictures("robustness", "error by severity", read_rows("robustness"))


def pictures(kind: str, label: str, rows: Sequence[dict]) -> str:
    """Link the figure of each preset and net, named by report_plots.py."""
    places = grouped(rows, "preset", "model")
    return "".join(f"![{label}](results/{kind}_{preset}_{model}.png)\n" for preset, model in places) or NONE


MADE = (
    totals,
    deep_methods,
    deep,
    deep_curves,
    growth,
    style,
    digits,
    pacs,
    cifar10,
    study,
    learning_curves,
    ablation,
    robustness,
    robustness_curves,
    domain_shift,
)


def blocks() -> dict[tuple[Path, str], str]:
    """Make all blocks: (page, name) to content."""
    made = {(REPORT, make.__name__): make() for make in MADE}
    return made | {(ROOT / "docs" / "does_it_help.md", "study"): summary(), (README, "checkpoints"): zoo_table()}


if __name__ == "__main__":
    main(__doc__, blocks())
