"""Draw each CSV of a folder as `<name>_<device>.png`. Requires matplotlib.

python -m benchmarks.speed.plots
"""

import math
from statistics import linear_regression

from matplotlib.figure import Figure

from .._results import grouped, read_rows
from ._measure import arguments

COLOURS = {
    "x * 0.5": "#9aa0a6",
    "reference": "#d1495b",
    "reference compiled": "#e8a0a9",
    "closed_form": "#00798c",
    "closed_form compiled": "#7fc4ce",
    "triton": "#edae49",
    "triton compiled": "#f6d9a8",
    "exchange": "#00798c",
    "exchange, closed form": "#7fc4ce",
    "exchange, plain formula": "#d1495b",
    "Mixup": "#edae49",
    "CutMix": "#8d6a9f",
}
NAMES = {"reference": "plain formula", "reference compiled": "plain formula, compiled"}


def grouped_bars(title: str, xlabel: str, groups: dict[str, list[dict]], value: str, floor: float, log: bool) -> Figure:
    """Draw horizontal bars grouped by case, whiskers from the 20 to the 80 % quantile, and a line at the floor."""
    contenders = list(dict.fromkeys(row["contender"] for rows in groups.values() for row in rows))
    height = 0.8 / len(contenders)
    figure = Figure((9, 1 + 0.26 * len(groups) * (len(contenders) + 0.6)), layout="constrained")
    axes = figure.subplots()
    for i, rows in enumerate(groups.values()):
        for row in rows:
            k = contenders.index(row["contender"])
            number, where = float(row[value]), i + (k - (len(contenders) - 1) / 2) * height
            spread = [number, number]
            if f"{value[:-3]}_20" in row:
                spread = [float(row[f"{value[:-3]}_20"]), float(row[f"{value[:-3]}_80"])]
            label = NAMES.get(row["contender"], row["contender"]) if i == 0 else None
            axes.barh(where, number, height * 0.9, color=COLOURS[row["contender"]], label=label)
            axes.plot(spread, [where, where], color="#333333", linewidth=1)
            axes.annotate(
                f"{number:.3g}",
                (max(spread), where),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
    axes.axvline(floor, color="#333333", linestyle=":", label=f"floor: {floor:g}")
    axes.set(
        title=title,
        xlabel=xlabel,
        yticks=range(len(groups)),
        yticklabels=list(groups),
        xscale="log" if log else "linear",
    )
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def _by(rows: list[dict], *columns: str) -> dict[str, list[dict]]:
    return {"\n".join(values): own for values, own in grouped(rows, *columns).items()}


def _how(rows: list[dict]) -> str:
    row = rows[0]
    return f"{row['processor']}, {row['threads']} thread(s), torch {row['torch']}"


def plot_op(rows: list[dict]) -> Figure:
    groups: dict[str, list[dict]] = {}
    for r in rows:
        if r["direction"] == "both" and r["contender"] != "copy":
            pages = ", fresh pages" if r["allocator"] == "system" else ""
            groups.setdefault(f"{r['shape']}\n{r['dtype']} {r['layout']} {r['norm']}{pages}", []).append(r)
    return grouped_bars(
        f"The operator, forward + backward\n{_how(rows)}", "copies of the tensor", groups, "ratio_50", 4, True
    )


def plot_compile(rows: list[dict]) -> Figure:
    groups = _by(
        [r for r in rows if r["contender"] != "copy" and "0.5" not in r["contender"]], "shape", "dtype", "layout"
    )
    title = f"The operator, eager and compiled, forward + backward\n{_how(rows)}"
    return grouped_bars(title, "copies of the tensor", groups, "ratio_50", 4, True)


def plot_memory(rows: list[dict]) -> Figure:
    groups = _by([r for r in rows if r["contender"] != "x * 0.5"], "norm", "dtype", "layout")
    return grouped_bars("Kept for backward", "sizes of the input", groups, "kept_per_input", 1, False)


def plot_step(rows: list[dict]) -> Figure:
    shown = [r for r in rows if r["work"] == "train" and r["contender"] != "plain" and "alone" not in r["contender"]]
    title = f"A training step, exchange on every batch\n{_how(rows)}"
    return grouped_bars(title, "plain steps", _by(shown, "model", "shape"), "ratio_50", 1, False)


def plot_scaling(rows: list[dict]) -> Figure:
    figure = Figure((8, 6), layout="constrained")
    axes = figure.subplots()
    markers = {"batch": "o", "side": "s", "channels": "^"}
    for contender in ("reference", "closed_form", "triton"):
        mine = [(r["sweep"], float(r["elements"]), float(r["ms_50"])) for r in rows if r["contender"] == contender]
        if not mine:
            continue
        b, a = linear_regression([math.log(x) for _, x, _ in mine], [math.log(y) for *_, y in mine])
        ends = [min(x for _, x, _ in mine), max(x for _, x, _ in mine)]
        label = f"{NAMES.get(contender, contender)}: time ~ elements^{b:.2f}"
        axes.plot(ends, [math.exp(a + b * math.log(x)) for x in ends], color=COLOURS[contender], label=label)
        for sweep, marker in markers.items():
            points = [(x, y) for s, x, y in mine if s == sweep]
            axes.plot(*zip(*points), marker, color=COLOURS[contender], alpha=0.7)
    for sweep, marker in markers.items():
        axes.plot([], [], marker, color="#333333", label=f"{sweep} varied")
    axes.set(
        title=f"Growth, forward + backward\n{_how(rows)}",
        xlabel="elements of x",
        ylabel="ms",
        xscale="log",
        yscale="log",
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


PLOTS = {"op": plot_op, "compile": plot_compile, "memory": plot_memory, "step": plot_step, "scaling": plot_scaling}


def main() -> None:
    folder = arguments(__doc__).parse_args().output
    for name, plot in PLOTS.items():
        for device, rows in _by(read_rows(name, folder), "device").items():
            path = folder / f"{name}_{device}.png"
            plot(rows).savefig(path, dpi=110)
            print(path)


if __name__ == "__main__":
    main()
