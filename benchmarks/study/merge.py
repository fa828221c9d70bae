"""Merge the results and curves of another clone into this one.

    python -m benchmarks.study.merge /path/to/other/clone/benchmarks/results

Lines of the tables in `KEYS` that are missing here are appended in this folder's column order, and their rows of
curves.csv are copied. Nothing is written if a run already exists with different settings or a different result, if a
curve is missing, or if a curve of the same name differs. In that case, remove one of the two first.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .._results import RESULTS, append_rows, read_rows
from ._curves import Curve, append_curve, read_curves

KEYS = {  # columns that identify a line of the table
    "study": ("preset", "model", "method", "seed"),
    "ablation": ("preset", "model", "factor", "value", "seed"),
    "domain_shift": ("phase", "held_out_style", "method", "setting", "seed"),
    "robustness": ("preset", "model", "method", "seed", "corruption", "severity"),
    "pacs": ("seed", "held_out", "method"),
    "digits": ("seed", "held_out", "method"),
}
Row = dict[str, str]


@dataclass
class Merge:
    """Lines to append, by table, and names of curves to copy."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    curves: list[str] = field(default_factory=list)


def new_rows(name: str, theirs: list[Row], ours: list[Row]) -> list[Row]:
    """Select the rows of `theirs` whose run is not among `ours`, with the columns in the order of `ours`.

    Raises:
        ValueError: The columns differ, or a run is in both tables with different settings or a different result.
    """
    known = {tuple(row[key] for key in KEYS[name]): row for row in ours}
    found = []
    for row in theirs:
        if ours and row.keys() != ours[0].keys():
            differing = ", ".join(sorted(row.keys() ^ ours[0].keys()))
            raise ValueError(f"{name}.csv: only one of the two tables has these columns: {differing}")
        row = {column: row[column] for column in ours[0]} if ours else row
        key = tuple(row[key] for key in KEYS[name])
        if key not in known:
            found.append(row)
        elif row != known[key]:
            differing = ", ".join(
                f"{c}: {row[c]!r} there, {known[key][c]!r} here" for c in row if row[c] != known[key][c]
            )
            raise ValueError(f"{name}.csv: the run {' '.join(key)} differs between the two tables ({differing})")
        known[key] = row
    return found


def new_curves(rows: list[Row], theirs: Mapping[str, Curve], ours: Mapping[str, Curve]) -> list[str]:
    """List the curves of these lines that are missing from `ours`.

    Raises:
        ValueError: A curve is missing from `theirs`, or `ours` has a different curve of the same name.
    """
    found = []
    for curve in (row["curve"] for row in rows if "curve" in row):
        if curve not in theirs:
            raise ValueError(f"{curve}: a line has this curve, but curves.csv does not contain it")
        if ours.get(curve, theirs[curve]) != theirs[curve]:
            raise ValueError(f"{curve}: curves.csv here has a different curve of this name, which belongs to no line")
        if curve not in ours:
            found.append(curve)
    return found


def plan(source: Path, results: Path) -> Merge:
    """Plan the merge of everything in `source` that is missing from `results`, without writing.

    Raises:
        ValueError: `source` has none of the tables; see also `new_rows` and `new_curves`.
    """
    if not any((source / f"{name}.csv").is_file() for name in KEYS):
        expected = ", ".join(f"{name}.csv" for name in KEYS)
        raise ValueError(f"{str(source)!r} has no results: expected a folder with one of {expected}")
    merge, theirs, ours = Merge(), read_curves(source), read_curves(results)
    for name in KEYS:
        merge.rows[name] = new_rows(name, read_rows(name, source), read_rows(name, results))
        merge.curves += new_curves(merge.rows[name], theirs, ours)
    return merge


def write(merge: Merge, source: Path, results: Path) -> None:
    """Copy the curves before the lines, so that every line has its curve and an interrupted merge can be repeated."""
    theirs = read_curves(source)
    for curve in merge.curves:
        append_curve(results, curve, theirs[curve])
    for name, rows in merge.rows.items():
        append_rows(results / f"{name}.csv", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="FROM_RESULTS_FOLDER", help="benchmarks/results of another clone")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to merge into; default: %(default)s")
    options = parser.parse_args()
    try:
        merge = plan(options.source, options.results)
    except ValueError as error:
        parser.error(str(error))
    write(merge, options.source, options.results)
    for name, rows in merge.rows.items():
        print(f"{name}.csv: {len(rows)} lines appended")
    print(f"curves: {len(merge.curves)} copied")


if __name__ == "__main__":
    main()
