"""The tables of benchmarks/README.md and the study's summary in README.md, made from the CSV files in
benchmarks/results.

python -m benchmarks.study.report            print them
python -m benchmarks.study.report --write    put them between their markers
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from timm_moex.hub.download import WEIGHTS
from timm_moex.hub.manifest import MANIFEST, read_manifest, weights_dir

from .._markdown import table, write_block
from .._results import RESULTS, ROOT, read_rows
from ._statistics import format_mean, paired

README, REPORT = ROOT / "README.md", ROOT / "benchmarks" / "README.md"
METHODS = {
    "baseline": "baseline",
    "mixup": "Mixup",
    "cutmix": "CutMix",
    "moex": "MoEx",
    "moex_lam1": "MoEx, λ = 1",
    "cutmix_moex": "CutMix + MoEx",
    "smoothing": "Label smoothing",
}
CONTROLS = ("smoothing",)  # not on the front page
NONE = "No run yet.\n"


def by_seed(rows: Sequence[dict], value: Callable[[dict], float]) -> dict[str, float]:
    return {row["seed"]: value(row) for row in rows}


def grouped(rows: Sequence[dict], *keys: str) -> dict[tuple[str, ...], list[dict]]:
    """Rows by their values of `keys`, in the order of first appearance."""
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(row)
    return dict(groups)


def in_order(methods: dict[tuple[str, ...], list[dict]]) -> list[tuple[str, list[dict]]]:
    return [(name, methods[(name,)]) for name in METHODS if (name,) in methods]


def test_error(row: dict) -> float:
    return 100 - float(row["test_top1"])


def test_loss(row: dict) -> float:
    return float(row["test_loss"])


def study() -> str:
    """Test error by preset, net and method, the difference from the baseline of the same seed, the cost in time."""
    presets, parts = yaml.safe_load((Path(__file__).parent / "presets.yaml").read_text()), []
    for (preset, model), rows in grouped(read_rows("study"), "preset", "model").items():
        methods = grouped(rows, "method")
        baseline, lines = methods.get(("baseline",), []), []
        for name, own in in_order(methods):
            settings = ", ".join(presets[preset]["methods"][name]).replace("model_kwargs.", "")
            cells = []
            for value, digits in ((test_error, 2), (test_loss, 3)):
                values, others = by_seed(own, value), by_seed(baseline, value)
                difference = "" if name == "baseline" else format_mean(paired(values, others), digits, sign=True)
                cells += [format_mean(list(values.values()), digits), difference]
            lines.append([METHODS[name], *cells, cost(own, baseline), str(len(own)), f"`{settings}`"])
        head = ["", "test error, %", "minus baseline", "test loss", "minus baseline", "time / baseline", "seeds"]
        head.append("settings")
        parts.append(f"**{model}**, preset {preset}, {epochs_of(rows)}:\n\n{table(head, lines)}\n{source(rows)}\n")
    return "\n".join(parts) or NONE


def cost(rows: Sequence[dict], baseline: Sequence[dict]) -> str:
    """Processor time (on a GPU: wall time) of a method over the baseline's; unknown times do not count."""
    column = "cpu_seconds" if rows[0]["device"] == "cpu" else "seconds"
    ours, theirs = ([float(row[column]) for row in part if row[column]] for part in (rows, baseline))
    return f"{sum(ours) / len(ours) / (sum(theirs) / len(theirs)):.2f}" if ours and theirs else "–"


def epochs_of(rows: Sequence[dict]) -> str:
    counts = {sum(1 for _ in (RESULTS / "curves" / row["curve"]).open()) - 1 for row in rows}
    return f"{', '.join(str(count) for count in sorted(counts))} epochs"


def source(rows: Sequence[dict]) -> str:
    """One line: where and with what the rows were measured."""
    parts = []
    for name, word in (("processor", ""), ("torch", "torch "), ("timm", "timm "), ("commit", "commit "), ("date", "")):
        parts.append(word + ", ".join(sorted({row[name] for row in rows if row.get(name)})))
    threads = ", ".join(sorted({row["threads"] for row in rows}))
    return f"({parts[0]}, {threads} thread(s) a run, {'; '.join(parts[1:])})\n"


def validation_top1(row: dict) -> float:
    return float(row["monitored_top1"])


def ablation() -> str:
    """Validation accuracy of every candidate, and its difference from the run without any method, and the reference."""
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
    """Error by corruption, mean over its severities, and calibration."""
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


def mean_by_seed(rows: Sequence[dict], column: str, corruptions: Sequence[str]) -> dict[str, float]:
    """Seed to the mean of a column over these corruptions, all severities."""
    values = defaultdict(list)
    for row in rows:
        if row["corruption"] in corruptions:
            values[row["seed"]].append(float(row[column]))
    return {seed: sum(numbers) / len(numbers) for seed, numbers in values.items()}


PARTS = {
    "unseen_emoji_seen_styles": "unseen emoji, seen styles",
    "unseen_emoji_unseen_style": "unseen emoji, unseen style",
    "seen_emoji_unseen_style": "seen emoji, unseen style",
}


def domain_shift() -> str:
    """Accuracy on emoji and drawing styles held out, by the style held out and the method."""
    parts = []
    for (phase, held_out), rows in grouped(read_rows("domain_shift"), "phase", "held_out_style").items():
        runs = grouped(rows, "method", "setting")
        baseline = next((own for (name, _), own in runs.items() if name == "baseline"), [])
        lines = []
        for (name, setting), own in runs.items():
            cells = []
            for column in PARTS:
                values, others = (by_seed(part, lambda row, c=column: float(row[c])) for part in (own, baseline))
                difference = "" if name == "baseline" else f" ({format_mean(paired(values, others), 1, sign=True)})"
                cells.append(format_mean(list(values.values()), 1) + difference)
            lines.append([METHODS[name.replace("+", "_")], setting, *cells, cost(own, baseline), str(len(own))])
        head = ["", "settings", *PARTS.values(), "time / baseline", "seeds"]
        parts.append(f"**{PHASES[phase].format(held_out)}**\n\n{table(head, lines, left=2)}\n{source(rows)}")
    return "\n".join(parts) or NONE


PHASES = {
    "selection": "Choosing the settings ({} held out, openmoji not used)",
    "study": "Held out: {}",
    "single": "Trained on one style, tested on {}",
}


def totals() -> str:
    """How many runs, seeds and hours stand behind the tables."""
    lines = []
    for name in ("study", "ablation", "domain_shift"):
        for (device, processor), rows in grouped(read_rows(name), "device", "processor").items():
            seconds = [float(row["seconds"]) for row in rows if row["seconds"]]
            hours = f"{sum(seconds) / 3600:.1f}" + ("" if len(seconds) == len(rows) else " + interrupted runs")
            seeds = len({row["seed"] for row in rows})
            lines.append([f"`{name}.csv`", str(len(rows)), str(seeds), hours, f"{processor} ({device})"])
    return table(["", "runs", "seeds", "hours", "device"], lines) if lines else NONE


def summary() -> str:
    """For the front page: the differences that the methods make, in a line for each net or style."""
    lines, names = [], [name for name in METHODS if name not in ("baseline", *CONTROLS)]
    for (preset, model), rows in grouped(read_rows("study"), "preset", "model").items():
        methods = {name: by_seed(own, test_error) for name, own in in_order(grouped(rows, "method"))}
        lines.append([f"{model}, Fashion-MNIST ({preset}), test error, %", *_against(methods, names, 2)])
    study_rows = [row for row in read_rows("domain_shift") if row["phase"] == "study"]
    for (held_out,), rows in grouped(study_rows, "held_out_style").items():
        methods = {
            method.replace("+", "_"): by_seed(own, lambda row: 100 - float(row["unseen_emoji_unseen_style"]))
            for (method,), own in grouped(rows, "method").items()
        }
        lines.append([f"tf_efficientnet_lite0, unseen emoji in an unseen style ({held_out}), error, %"])
        lines[-1] += _against(methods, names, 1)
    return table(["", "baseline", *(METHODS[name] for name in names), "seeds"], lines)


def _against(methods: dict[str, dict[str, float]], names: Sequence[str], digits: int) -> list[str]:
    """The baseline's figure, and each method's difference from it."""
    baseline = methods["baseline"]
    differences = [format_mean(paired(methods.get(name, {}), baseline), digits, sign=True) for name in names]
    return [format_mean(list(baseline.values()), digits), *differences, str(len(baseline))]


def zoo_table() -> str:
    """For the front page: the checkpoints in weights/, by name as `timm.create_model` takes it."""
    lines = []
    for entry in sorted(read_manifest(weights_dir() / MANIFEST), key=lambda entry: entry.name):
        size = entry.files[WEIGHTS]["size"] / 1e6
        spread = f"{entry.top1['mean']:.2f} ± {entry.top1['std']:.2f}"
        lines.append([f"`moex_{entry.name}`", entry.split, f"{entry.top1['value']:.2f}", spread])
        lines[-1] += [str(len(entry.seeds)), f"{size:.1f} MB"]
    head = ["", "evaluated on", "top-1, %", "mean ± standard deviation", "seeds", "size"]
    return table(head, lines, left=2)


def blocks() -> dict[tuple[Path, str], str]:
    """(file, block) → content."""
    made = {(REPORT, make.__name__): make() for make in (study, ablation, robustness, domain_shift, totals)}
    return made | {(README, "study"): summary(), (README, "checkpoints"): zoo_table()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into the README files")
    write = parser.parse_args().write
    for (file, name), content in blocks().items():
        if write:
            write_block(file, name, content)
        else:
            print(f"\n## {name}\n\n{content}")


if __name__ == "__main__":
    main()
