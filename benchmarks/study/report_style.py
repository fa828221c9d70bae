"""The table of MixStyle under a shift of style, by the analysis that domain_shift.py wrote down before the runs.

Seeds of one hand share its style: the last line therefore takes each hand's mean as one value.
"""

import statistics

from timm_moex.comparison.statistics import format_interval, format_mean, paired

from .._markdown import table
from .._results import read_rows
from ._rows import NONE, by_seed, grouped, source

PRIMARY = "noto"
COLUMNS = {
    "unseen_emoji_unseen_style": "unseen emoji, unseen style",
    "seen_emoji_unseen_style": "seen emoji, unseen style",
    "unseen_emoji_seen_styles": "unseen emoji, seen styles",
}


def style() -> str:
    """MixStyle minus the baseline in top-1 points, for each style held out and over the hands that drew them."""
    rows = [row for row in read_rows("domain_shift") if row["phase"] == "mixstyle"]
    hands = sorted(grouped(rows, "held_out_style").items(), key=lambda item: (item[0] != (PRIMARY,), item[0]))
    lines, means = [], {column: [] for column in COLUMNS}
    for (hand,), own in hands:
        methods, cells, seeds = grouped(own, "method"), [], 0
        for column in COLUMNS:
            plain, mixed = (
                by_seed(methods.get((name,), []), lambda row, c=column: float(row[c]))
                for name in ("baseline", "mixstyle")
            )
            differences = paired(mixed, plain)
            seeds = len(differences)
            cells.append(f"{format_mean(list(plain.values()), 1)}; {format_interval(differences, 1)}")
            means[column] += [statistics.fmean(differences)] if differences else []
        lines.append([f"{hand}, primary outcome" if hand == PRIMARY else hand, *cells, str(seeds)])
    if not lines:
        return NONE
    if len(hands) > 1:
        lines.append(["all hands, each one value", *(format_interval(means[c], 1) for c in COLUMNS), str(len(hands))])
    return f"{table(['held out', *COLUMNS.values(), 'seeds'], lines)}\n{source(rows)}"
