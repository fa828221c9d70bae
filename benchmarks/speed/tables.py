"""The performance tables of docs/speed.md, made from the CSV files in benchmarks/results.

python -m benchmarks.speed.tables            print it
python -m benchmarks.speed.tables --write    put it between the markers in docs/speed.md
"""

import argparse

from .._markdown import table, write_block
from .._results import ROOT, read_rows

PAGE = ROOT / "docs" / "speed.md"
BLOCK = "performance"
SHAPE = "64x64x56x56"


def _pick(rows: list[dict], column: str, **wanted: str) -> str:
    """Return the one figure whose row has these values; an error if the CSV has none or several."""
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    if len(found) != 1:
        raise LookupError(f"{len(found)} rows with {wanted}; run the benchmarks again")
    return f"{float(found[0][column]):.3g}"


def _source(rows: list[dict]) -> str:
    row = rows[0]
    clock = "processor time" if row["clock"] == "cpu" else "wall time"
    return f"{row['processor']}, {row['threads']} thread(s), {clock}, torch {row['torch']}, commit {row['commit']}"


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
        "Forward and backward of the exchange, in copies of the tensor (`y.copy_(x)` = 1; by bytes at least 4), and "
        "what is kept for backward, in sizes of the input:\n\n"
        + table(head, lines)
        + f"\n({_source(op)}; memory reused between calls, as by tcmalloc or jemalloc)\n"
    )


def step_table() -> str:
    rows = [r for r in read_rows("step") if r["device"] == "cpu"]

    def cell(model: str, work: str, contender: str) -> str:
        median, fastest = (
            _pick(rows, column, model=model, work=work, contender=contender) for column in ("ratio_50", "ratio_min")
        )
        return f"{float(median):.2f} ({float(fastest):.2f})"

    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        shape = next(row["shape"] for row in rows if row["model"] == model)
        share = float(_pick(rows, "ratio_50", model=model, work="train", contender="exchange alone"))
        others = [cell(model, "train", name) for name in ("exchange, plain formula", "Mixup", "CutMix")]
        evaluate = cell(model, "evaluate", "exchange")
        lines.append(
            [f"{model}, {shape}", f"**{cell(model, 'train', 'exchange')}**", f"{share:.1%}", *others, evaluate]
        )
    head = ["model, images", "exchange", "its operator alone", "plain formula", "Mixup", "CutMix", "evaluation"]
    return (
        "A training step with the exchange on every batch, and an evaluation, over plain timm's; median of the paired "
        "ratios, in brackets the ratio of the fastest runs:\n\n" + table(head, lines) + f"\n({_source(rows)})\n"
    )


def presets_table() -> str:
    rows = [r for r in read_rows("presets") if r["device"] == "cpu"]
    lines = []
    for name in dict.fromkeys(row["contender"] for row in rows if "alone" not in row["contender"]):
        if name != "plain":
            sites = next(row["sites"] for row in rows if row["contender"] == name)
            ratio = float(_pick(rows, "ratio_50", contender=name))
            share = float(_pick(rows, "ratio_50", contender=f"{name} alone"))
            lines.append([f"`{name}`", sites, f"**{ratio:.2f}**", f"{share:.1%}"])
    return (
        f"A training step of {rows[0]['model']} ({rows[0]['shape']}) with each [preset](presets.md) over plain timm's, "
        "every site of it exchanging in every step; by their own probabilities they exchange less often:\n\n"
        + table(["preset", "sites", "step", "its operators alone"], lines)
        + f"\n({_source(rows)})\n"
    )


def gpu_note() -> str:
    if any(row["device"] == "cuda" for row in read_rows("op")):
        return ""
    return (
        "\nNo GPU has measured this yet: `python -m benchmarks.speed.op --device cuda` (and `step`, `memory`, "
        '`compile`, `scaling`) does. Until then `backend="triton"` is used only where it is asked for.\n'
    )


def performance() -> str:
    return f"{operator_table()}\n{step_table()}\n{presets_table()}{gpu_note()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/speed.md")
    if parser.parse_args().write:
        write_block(PAGE, BLOCK, performance())
    else:
        print(performance())


if __name__ == "__main__":
    main()
