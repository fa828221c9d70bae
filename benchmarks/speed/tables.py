"""Make the tables of docs/speed.md from the CSV files in benchmarks/results.

python -m benchmarks.speed.tables            print them
python -m benchmarks.speed.tables --write    put them between their markers
"""

from .._markdown import main, table
from .._results import ROOT, read_rows

PAGE = ROOT / "docs" / "speed.md"
SHAPE = "64x64x56x56"


def _pick(rows: list[dict], column: str, **wanted: str) -> str:
    """Return the figure of the only row with these values.

    Raises:
        LookupError: The CSV has no such row, or several.
    """
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    if len(found) != 1:
        raise LookupError(f"{len(found)} rows with {wanted}; run the benchmarks again")
    return f"{float(found[0][column]):.3g}"


def _source(rows: list[dict]) -> str:
    row = rows[0]
    clock = "processor time" if row["clock"] == "cpu" else "wall time"
    threads = f"{row['threads']} thread{'s' * (row['threads'] != '1')}"
    return f"{row['processor']}, {threads}, {clock}, torch {row['torch']}, commit {row['commit']}"


def operator_table() -> str:
    op, compiled, memory = (
        [r for r in read_rows(name) if r["device"] == "cpu" and r["shape"] == SHAPE]
        for name in ("op", "compile", "memory")
    )
    lines = []
    for dtype in ("float32", "bfloat16"):
        for layout in ("NCHW", "channels_last"):
            where = {"dtype": dtype, "layout": layout, "norm": "pono"}
            times = [
                _pick(op, "ratio_50", contender=name, direction="both", allocator="kept", **where)
                for name in ("x * 0.5", "reference", "closed_form")
            ]
            times += [
                _pick(compiled, "ratio_50", contender=f"{name} compiled", **where)
                for name in ("reference", "closed_form")
            ]
            kept = [_pick(memory, "kept_per_input", contender=name, **where) for name in ("reference", "closed_form")]
            lines.append([f"{dtype}, {layout}", *times[:2], f"**{times[2]}**", *times[3:], kept[0], f"**{kept[1]}**"])
    head = ["(64, 64, 56, 56), PONO", "`x * 0.5`", "plain formula", "timm_moex"]
    head += ["plain, compiled", "timm_moex, compiled", "kept, plain", "kept, timm_moex"]
    return (
        "Time of forward and backward together, in copies of the tensor (`y.copy_(x)` = 1; reading and writing the "
        "data takes at least 4), and memory kept for backward, as a multiple of the input's size:\n\n"
        + table(head, lines)
        + f"\n({_source(op)}; memory reused between calls, as by tcmalloc or jemalloc)\n"
    )


def gpu_operator_table() -> str:
    """Format the operator on a GPU: every backend, eager and compiled, and its peak memory."""
    op, compiled, memory = (
        [r for r in read_rows(name) if r["device"] == "cuda"] for name in ("op", "compile", "memory")
    )
    backends, lines = ("reference", "closed_form", "triton"), []
    for shape in dict.fromkeys(row["shape"] for row in op):
        for dtype in ("float32", "bfloat16"):
            for layout in ("NCHW", "channels_last"):
                where = {"dtype": dtype, "layout": layout, "norm": "pono"}
                if not any(row["shape"] == shape and row.items() >= where.items() for row in op):
                    continue
                times = [_pick(op, "ratio_50", contender=n, direction="both", shape=shape, **where) for n in backends]
                if any(row["shape"] == shape for row in compiled):
                    rows = [row for row in compiled if row["shape"] == shape]
                    times += [_pick(rows, "ratio_50", contender=f"{name} compiled", **where) for name in backends]
                else:
                    times += ["–"] * len(backends)
                peaks = [_pick(memory, "peak_per_input", contender=name, **where) for name in backends]
                times[2], peaks[2] = f"**{times[2]}**", f"**{peaks[2]}**"
                lines.append([f"({shape.replace('x', ', ')}), {dtype}, {layout}", *times, *peaks])
    head = [
        "PONO",
        "plain formula",
        "closed form",
        "Triton",
        "plain, compiled",
        "closed form, compiled",
        "Triton, compiled",
    ]
    head += [f"peak, {name}" for name in ("plain", "closed form", "Triton")]
    return (
        "Time of forward and backward together, in copies of the tensor, each started on an idle GPU, and peak "
        f"memory, as a multiple of the input's size, measured with ({memory[0]['shape'].replace('x', ', ')}):\n\n"
        f"{table(head, lines)}\n({_source(op)})\n"
    )


def step_table(device: str) -> str:
    rows = [r for r in read_rows("step") if r["device"] == device]
    contenders = {row["contender"] for row in rows}
    names = [f"exchange, {how}" for how in ("closed form", "plain formula")] + ["Mixup", "CutMix"]
    names = [name for name in names if name in contenders]

    def cell(model: str, work: str, contender: str) -> str:
        if not any((row["model"], row["work"], row["contender"]) == (model, work, contender) for row in rows):
            return "–"
        median, fastest = (
            _pick(rows, column, model=model, work=work, contender=contender) for column in ("ratio_50", "ratio_min")
        )
        return f"{float(median):.2f} ({float(fastest):.2f})"

    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        alone = [row for row in mine if row["contender"] == "exchange alone"]
        share = f"{float(_pick(alone, 'ratio_50', work='train')):.1%}" if alone else "–"
        own, *others, evaluate = (
            cell(model, *what) for what in [("train", n) for n in ("exchange", *names)] + [("evaluate", "exchange")]
        )
        lines.append([f"{model}, {mine[0]['shape']}", own if own == "–" else f"**{own}**", share, *others, evaluate])
    head = [
        "model, images",
        "exchange",
        "operator, share of step",
        *(n.removeprefix("exchange, ") for n in names),
        "evaluation",
    ]
    how = f" in {rows[0]['dtype']} (autocast), {rows[0]['layout']}" if device == "cuda" else ""
    return (
        f"Time of a training step{how}, and of an evaluation, divided by the time in plain timm. Every batch is "
        "exchanged. The figures are medians of the paired ratios, with the ratio of the fastest runs in brackets:\n\n"
        + table(head, lines)
        + f"\n({_source(rows)})\n"
    )


def presets_table(device: str) -> str:
    rows = [r for r in read_rows("presets") if r["device"] == device]
    lines = []
    for name in dict.fromkeys(row["contender"] for row in rows if "alone" not in row["contender"]):
        if name != "plain":
            sites = next(row["sites"] for row in rows if row["contender"] == name)
            ratio = float(_pick(rows, "ratio_50", contender=name))
            share = float(_pick(rows, "ratio_50", contender=f"{name} alone"))
            lines.append([f"`{name}`", sites, f"**{ratio:.2f}**", f"{share:.1%}"])
    return (
        f"Time of a training step of {rows[0]['model']} ({rows[0]['shape']}) with each [preset](presets.md), divided "
        "by the time in plain timm. Here every site exchanges in every step; with the presets' default probabilities, "
        "most exchange less often:\n\n"
        + table(["preset", "sites", "step", "operators, share of step"], lines)
        + f"\n({_source(rows)})\n"
    )


def performance() -> str:
    return f"{operator_table()}\n{step_table('cpu')}\n{presets_table('cpu')}"


def gpu_performance() -> str:
    return f"{gpu_operator_table()}\n{step_table('cuda')}\n{presets_table('cuda')}"


BLOCKS = {"performance": performance, "gpu": gpu_performance}


if __name__ == "__main__":
    main(__doc__, {(PAGE, name): make() for name, make in BLOCKS.items()})
