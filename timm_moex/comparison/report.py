"""Report of a comparison: a table and a summary, written to report.md and compare.csv."""

import csv
import io
import math
from collections.abc import Sequence

from ..utils.files import write_atomically
from .methods import BASELINE
from .outcomes import Figures, differences, gap_in_words, mean_over_groups, read_outcomes, values, verdict
from .plan import Plan
from .statistics import format_interval, format_mean

__all__ = ["MEAN", "failures", "figures_by_title", "format_table", "report_text", "table", "write_report"]

FAILED = "failed.txt"
MEAN = "mean over the groups"


def format_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table that is readable as plain text, with the first column aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(head, *lines)]
    rows = [
        "| " + " | ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths))) + " |"
        for row in (head, *lines)
    ]
    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([rows[0], rule, *rows[1:]])


def figures_by_title(plan: Plan) -> dict[str, Figures]:
    """Read the outcomes to report: "" for an ordinary comparison, otherwise each held-out group and their mean."""
    found = read_outcomes(plan)
    return found | {MEAN: mean_over_groups(found)} if plan.groups else found


def table(figures: Figures) -> str:
    """Format a row for each method: its means, and its paired differences with 95 % intervals."""
    lines = []
    for method, by_seed in figures.items():
        cells = [method, str(len(by_seed))]
        for key, digits in (("error", 2), ("loss", 3)):
            pairs = [] if method == BASELINE else differences(figures, method, key)
            cells.append(format_mean(list(values(figures, method, key).values()), digits))
            cells.append(format_interval(pairs, digits) if pairs else "")
        lines.append([*cells, _relative_time(figures, method)])
    head = ["", "seeds", "error, %", "minus baseline [95 %]", "loss", "minus baseline [95 %]", "time / baseline"]
    return format_table(head, lines)


def _relative_time(figures: Figures, method: str) -> str:
    """Seconds per epoch divided by the baseline's, over the seeds that both have."""
    ours, theirs = (values(figures, name, "seconds") for name in (method, BASELINE))
    both = ours.keys() & theirs.keys()
    ratio = sum(ours[s] for s in both) / sum(theirs[s] for s in both) if both else math.nan
    return "–" if math.isnan(ratio) else f"{ratio:.2f}"


def failures(plan: Plan) -> list[str]:
    """List the runs that failed and have not been finished since, with the reason."""
    files = [(run, run.folder / FAILED) for run in plan.runs()]
    return [f"{run}: {file.read_text(encoding='utf-8')}" for run, file in files if file.is_file()]


def report_text(plan: Plan) -> str:
    """Write the report in Markdown: the set-up, a table for each group, and a sentence for each method."""
    titled, failed = figures_by_title(plan), failures(plan)
    decisive = list(titled.values())[-1]
    parts = [_what(plan)]
    for title, figures in titled.items():
        parts += [f"**{title}**"] * bool(title) + [table(figures)]
    sentences = [verdict(m, differences(decisive, m, "error")) for m in decisive if m != BASELINE]
    if decisive[BASELINE]:
        sentences.append(gap_in_words(list(values(decisive, BASELINE, "gap").values())))
    parts += ["\n".join(f"- {sentence}" for sentence in sentences)]
    if plan.test and len(plan.methods) > 2:
        parts.append(
            f"Warning: {len(plan.methods) - 1} methods were tested on {plan.images['test']}. The best of them owes "
            "part of its lead to chance, so its error is optimistic. Choose on the evaluation split, then test only "
            "that choice."
        )
    if failed:
        parts.append("\n".join([f"{len(failed)} runs failed:", "", *(f"- {line}" for line in failed)]))
    return "\n\n".join(parts) + "\n"


def _what(plan: Plan) -> str:
    trained = plan.images["training"]
    judged = plan.images["held out" if plan.groups else "test" if plan.test else "evaluation"]
    count = plan.runs()[0].epochs
    epochs = f"{count} epoch{'s' * (count > 1)}"
    return (
        f"{plan.name} ({plan.settings['model']}), {epochs} on {trained}. Errors are measured on {judged}, after "
        "the last epoch. Runs with the same seed share initial weights and image order; differences are "
        "paired by seed."
    )


def write_report(plan: Plan) -> str:
    """Write report.md and compare.csv, and return the report."""
    text = report_text(plan)
    picture = "\n![differences and curves](compare.png)\n"
    methods = "".join(f"- {name}: `{' '.join(changes) or 'unchanged'}`\n" for name, changes in plan.methods.items())
    page = f"# Comparison\n\n{text}{picture}\nChanges to the recipe:\n\n{methods}"
    rows = _csv(plan)
    write_atomically(plan.folder / "report.md", lambda file: file.write(page.encode()))
    write_atomically(plan.folder / "compare.csv", lambda file: file.write(rows.encode()))
    return text


def _csv(plan: Plan) -> str:
    """Format a CSV with a row for each finished run and everything it measured."""
    rows = []
    for run in plan.runs():
        if (result := run.result) is None:
            continue
        row = {"method": run.method, "held_out": run.group, "seed": run.seed, "epochs": result["epochs"]}
        numbers = {key: value for key, value in result["metrics"].items() if isinstance(value, (int, float))}
        row |= result["train"] | {f"eval_{key}": value for key, value in numbers.items()}
        tested = result.get("test", {})
        row |= {f"test_{key}": tested.get(key, "") for key in ("loss", "top1", "top5", "count")}
        rows.append(row | {"seconds_per_epoch": result["seconds_per_epoch"]} | result["environment"])
    file = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
