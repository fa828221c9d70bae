"""Tables of cifar10.csv, digits.csv, pacs.csv and domain_shift.csv.

domain_shift.csv has two tables: all methods, and MixStyle by the analysis that domain_shift.py states.

The seeds of one designer share its style, so MixStyle's last line has one value per designer: the mean of its seeds.
"""

import statistics
from collections.abc import Sequence

from timm_moex.comparison.statistics import format_interval, format_mean, paired

from .._markdown import table
from .._results import grouped, read_rows
from . import digits as digits_study
from . import pacs as pacs_study
from ._held_out import summary
from ._rows import METHODS, NONE, by_seed, cost, source, test_error, test_loss

PARTS = {
    "unseen_emoji_seen_styles": "unseen emoji, seen styles",
    "unseen_emoji_unseen_style": "unseen emoji, unseen style",
    "seen_emoji_unseen_style": "seen emoji, unseen style",
}
PHASES = {
    "selection": "Choosing the settings ({} held out, openmoji not used)",
    "study": "Held out: {}",
    "single": "Trained on one style, tested on {}",
}
PRIMARY = "noto"
PRIMARY_FIRST = ("unseen_emoji_unseen_style", "seen_emoji_unseen_style", "unseen_emoji_seen_styles")


def top1(rows: Sequence[dict], part: str) -> dict[str, float]:
    """Map each seed to its top-1 on a part."""
    return by_seed(rows, lambda row: float(row[part]))


def domain_shift() -> str:
    """Format top-1 on held-out emoji and drawing styles: a table for each held-out style, a line for each method."""
    parts = []
    shown = [row for row in read_rows("domain_shift") if row["phase"] in PHASES]
    for (phase, held_out), rows in grouped(shown, "phase", "held_out_style").items():
        runs = grouped(rows, "method", "setting")
        baseline = next((own for (name, _), own in runs.items() if name == "baseline"), [])
        lines = []
        for (name, setting), own in runs.items():
            cells = []
            for part in PARTS:
                values = top1(own, part)
                difference = format_mean(paired(values, top1(baseline, part)), 1, sign=True)
                cells.append(format_mean(list(values.values()), 1) + f" ({difference})" * (name != "baseline"))
            lines.append([METHODS[name.replace("+", "_")], setting, *cells, cost(own, baseline), str(len(own))])
        head = ["", "settings", *PARTS.values(), "time / baseline", "seeds"]
        parts.append(f"**{PHASES[phase].format(held_out)}**\n\n{table(head, lines, left=2)}\n{source(rows)}")
    return "\n".join(parts) or NONE


def style() -> str:
    """Format MixStyle minus the baseline in top-1 points: a line for each held-out style, and their mean."""
    rows = [row for row in read_rows("domain_shift") if row["phase"] == "mixstyle"]
    designers = sorted(grouped(rows, "held_out_style").items(), key=lambda item: (item[0] != (PRIMARY,), item[0]))
    lines, means = [], {part: [] for part in PRIMARY_FIRST}
    for (designer,), own in designers:
        methods, cells, seeds = grouped(own, "method"), [], 0
        for part in PRIMARY_FIRST:
            plain, mixed = (top1(methods.get((name,), []), part) for name in ("baseline", "mixstyle"))
            differences = paired(mixed, plain)
            seeds = len(differences)
            cells.append(f"{format_mean(list(plain.values()), 1)}; {format_interval(differences, 1)}")
            means[part] += [statistics.fmean(differences)] if differences else []
        lines.append([f"{designer}, primary outcome" if designer == PRIMARY else designer, *cells, str(seeds)])
    if not lines:
        return NONE
    if len(designers) > 1:
        together = [format_interval(values, 1) for values in means.values()]
        lines.append(["all designers, one value each", *together, str(len(designers))])
    return f"{table(['held out', *(PARTS[part] for part in PRIMARY_FIRST), 'seeds'], lines)}\n{source(rows)}"


def digits() -> str:
    """Format digits.csv, see `left_out`."""
    return left_out("digits", digits_study.SEEDS, digits_study.SPEAKERS, digits_study.METHODS)


def pacs() -> str:
    """Format pacs.csv, see `left_out`."""
    return left_out("pacs", pacs_study.SEEDS, pacs_study.DOMAINS, pacs_study.METHODS)


def left_out(name: str, seeds: Sequence[int], groups: Sequence[str], methods: Sequence[str]) -> str:
    """Format a study that leaves one group out, as `summary` does, from the seeds whose runs have all finished."""
    rows, each = read_rows(name), len(groups) * len(methods)
    whole, parts = whole_seeds(rows, groups, methods), []
    if len(rows) < each * len(seeds):
        only = f" The table has only the seeds whose {each} runs have all finished." if whole else ""
        parts.append(f"{len(rows)} of {each * len(seeds)} runs have finished.{only}\n")
    if whole:
        parts.append(f"{summary(whole, methods, groups)}\n{source(whole)}")
    return "\n".join(parts)


def whole_seeds(rows: Sequence[dict], groups: Sequence[str], methods: Sequence[str]) -> list[dict]:
    """Select the rows of the seeds that have all groups and methods."""
    return [r for own in grouped(rows, "seed").values() if len(own) == len(groups) * len(methods) for r in own]


def cifar10() -> str:
    """Format cifar10.csv: test error and loss by number of labels and method, and their differences from the baseline.

    A last row has the difference between CutMix with and without MoEx. All have 95 % intervals over the seeds.
    """
    runs, lines = grouped(read_rows("cifar10"), "labels", "method"), []
    for labels, method in sorted(runs, key=lambda key: int(key[0])):
        compared = [("baseline", METHODS[method.replace("+", "_")])]
        if method == "cutmix+moex":
            compared.append(("cutmix", "CutMix + MoEx minus CutMix"))
        for other, label in compared:
            own, others, cells = runs[labels, method], runs.get((labels, other), []), []
            for value, places in ((test_error, 2), (test_loss, 3)):
                values = by_seed(own, value)
                mean = format_mean(list(values.values()), places) if other == "baseline" else ""
                cells += [mean, format_interval(paired(values, by_seed(others, value)), places) * (method != other)]
            lines.append([f"{int(labels):,}", label, *cells, str(len(own))])
    if not lines:
        return NONE
    head = ["labels", "", "test error, %", "difference", "test loss", "difference", "seeds"]
    return f"{table(head, lines, left=2)}\n{source(read_rows('cifar10'))}"
