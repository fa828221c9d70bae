"""Put a trained model into weights/: its folder and its entry in the manifest, with the figures of its runs.

    python -m benchmarks.study.make_checkpoint resnet20_cifar.moex_fmnist5k --table study \
        --runs output/study/run/cpu-growth-5000-resnet20_cifar-moex-?? \
        --baseline output/study/run/cpu-growth-5000-resnet20_cifar-baseline-?? \
        --recipe "python -m benchmarks.study run --preset cpu-growth-5000" \
        --dataset torch/fashion_mnist --split "test, all 10,000 images" --license apache-2.0 --limits "A sentence."

The runs are folders of `timm-moex train` or `compare`, one per seed. Their top-1 is measured after the last epoch, on
the test images of `compare --test-split`, otherwise on the evaluation part of the data. With --table, top-1 and seeds
are read from a CSV in benchmarks/results, measured on other images, and only the folder of the median run must exist.
The published weights are from the run with the median top-1 (of two, the lower one), never from the best run.
"""

import argparse
import csv
import json
import statistics
from datetime import date
from pathlib import Path

import torch
import yaml
from timm.data import resolve_data_config

from timm_moex.hub import load_model, save_folder
from timm_moex.hub.download import WEIGHTS
from timm_moex.hub.manifest import MANIFEST, read_manifest
from timm_moex.hub.verify import verify_folder
from timm_moex.utils.files import sha256_of

from .._results import ROOT, read_rows

FLOAT16 = "The parameters are saved in float16. Top-1 of these weights was measured with the saved file."


def row_of(run: Path, table: str) -> dict[str, str]:
    """Find the run's line in a CSV by the name of its curve."""
    [row] = [row for row in read_rows(table) if Path(row["curve"]).name == run.name]
    return row


def top1_of(run: Path, table: str | None, column: str) -> float:
    """Return top-1 in percent after the last epoch."""
    if table:
        return float(row_of(run, table)[column])
    if (run / "result.json").is_file():  # written by `timm-moex compare`
        result = json.loads((run / "result.json").read_text())
        return result.get("test", result["metrics"])["top1"]
    return float(list(csv.DictReader((run / "summary.csv").open()))[-1]["eval_top1"])


def settings_of(run: Path) -> dict[str, object]:
    return yaml.safe_load((run / "recipe.yaml").read_text())


def figures(values: list[float]) -> dict[str, float]:
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(statistics.mean(values), 3), "std": round(std, 3)}


def median_first(runs: list[Path], values: list[float]) -> list[Path]:
    """Return the runs with the (lower) median one first."""
    median = runs[values.index(statistics.median_low(values))]
    return [median, *(run for run in runs if run != median)]


def facts_of(args: argparse.Namespace, runs: list[Path]) -> dict[str, object]:
    """Collect the facts for card and manifest."""
    values, others = ([top1_of(run, args.table, args.column) for run in part] for part in (runs, sorted(args.baseline)))
    facts = {key: getattr(args, key) for key in ("dataset", "split", "license", "commit", "device")}
    if args.table:
        rows = [row_of(run, args.table) for run in runs]
        facts["commit"] = facts["commit"] or ", ".join(sorted({row["commit"] for row in rows}))
        facts["device"] = facts["device"] or f"{rows[0]['processor']}, threads: {rows[0]['threads']}"
    seeds = [settings_of(run).get("seed", 42) for run in runs] if not args.table else [int(row["seed"]) for row in rows]
    trained = date.fromtimestamp((runs[0] / "summary.csv").stat().st_mtime).isoformat()
    top1 = {"value": round(values[0] if args.value is None else args.value, 2)} | figures(values)
    return facts | dict(top1=top1, baseline=figures(others) if others else None, seeds=seeds, date=trained)


def write_folder(args: argparse.Namespace, first: Path, facts: dict[str, object]) -> Path:
    model = load_model(first / "hub")
    config = json.loads((first / "hub" / "config.json").read_text())
    extra = {key: getattr(args, key) for key in ("origin", "base_model") if getattr(args, key)}
    limits = [args.limits, *[FLOAT16] * args.half]
    return save_folder(
        model,
        args.weights / args.name,
        resolve_data_config({}, model=model),
        label_names=config.get("label_names", ()),
        model_args=config.get("model_args"),
        summary=first / "summary.csv",
        card=facts | extra | dict(command=args.recipe, recipe=settings_of(first), limits=limits),
        dtype=torch.float16 if args.half else None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="architecture.tag")
    parser.add_argument("--runs", nargs="+", type=Path, required=True)
    parser.add_argument("--baseline", nargs="+", type=Path, default=[])
    parser.add_argument("--table", help="name of the CSV in benchmarks/results with the top-1")
    parser.add_argument("--column", default="test_top1", help="column of the table; default: %(default)s")
    for key in ("recipe", "dataset", "split", "license", "limits"):
        parser.add_argument(f"--{key}", required=True)
    for key in ("commit", "device", "origin", "base_model"):
        parser.add_argument(f"--{key}", help="see timm_moex/hub/manifest.py; commit and device default to the table's")
    parser.add_argument("--half", action="store_true", help="save parameters in float16; requires --value")
    parser.add_argument("--value", type=float, help="top-1 of the written file by `timm-moex eval`")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    args = parser.parse_args()
    if args.half and args.value is None:
        parser.error("--half requires --value, because rounding changes the top-1")

    runs = sorted(args.runs)
    runs = median_first(runs, [top1_of(run, args.table, args.column) for run in runs])
    facts = facts_of(args, runs)
    folder = write_folder(args, runs[0], facts)
    files = {path.name: {"sha256": sha256_of(path), "size": path.stat().st_size} for path in sorted(folder.iterdir())}
    architecture, _, tag = args.name.partition(".")
    row = dict(name=args.name, architecture=architecture, tag=tag, files=files, command=args.recipe) | facts
    manifest = args.weights / MANIFEST
    rows = json.loads(manifest.read_text())["checkpoints"] if manifest.is_file() else []
    rows = [other for other in rows if other["name"] != args.name] + [row | dict(hub_id=None, revision=None)]
    manifest.write_text(json.dumps({"checkpoints": rows}, indent=2) + "\n")
    [entry] = [entry for entry in read_manifest(manifest) if entry.name == args.name]
    if problems := verify_folder(folder, entry):
        raise SystemExit("\n".join(problems))
    print(f"{folder}: {files[WEIGHTS]['size']:,} bytes, top-1 {facts['top1']}, without MoEx {facts['baseline']}")


if __name__ == "__main__":
    main()
