"""Put a trained model into weights/: its folder, and its entry in the manifest, with what its runs say.

    python benchmarks/make_checkpoint.py resnet20_cifar.fmnist_sample \
        --recipe "timm-moex train quickstart --in-memory" \
        --runs output/moex_0 output/moex_1 output/moex_2 --baseline output/plain_0 output/plain_1 output/plain_2 \
        --dataset torch/fashion_mnist --split "test, the 1,000 images of the packaged sample" \
        --license apache-2.0 --commit COMMIT --device "2 CPU cores" --limits "A sentence."

The runs are folders of `timm-moex train`, one per seed; the weights are those of the first, its last epoch.
"""

import argparse
import csv
import json
import statistics
from datetime import date
from pathlib import Path

import yaml
from timm.data import resolve_data_config

from timm_moex.fetch import WEIGHTS, sha256_of
from timm_moex.hub import load_model, save_folder
from timm_moex.verify import verify_folder
from timm_moex.weights import MANIFEST, read_manifest


def top1_of(run: Path) -> float:
    """Percent, after the last epoch."""
    return float(list(csv.DictReader((run / "summary.csv").open()))[-1]["eval_top1"])


def settings_of(run: Path) -> dict[str, object]:
    return yaml.safe_load((run / "recipe.yaml").read_text())


def figures(runs: list[Path]) -> dict[str, float]:
    values = [top1_of(run) for run in runs]
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"value": round(values[0], 2), "mean": round(statistics.mean(values), 3), "std": round(std, 3)}


def facts_of(args: argparse.Namespace) -> dict[str, object]:
    """What card and manifest both say."""
    top1, baseline = figures(args.runs), figures(args.baseline) if args.baseline else None
    if baseline:
        baseline.pop("value")
    seeds = [settings_of(run).get("seed", 42) for run in args.runs]
    trained = date.fromtimestamp((args.runs[0] / "summary.csv").stat().st_mtime).isoformat()
    said = dict(dataset=args.dataset, split=args.split, license=args.license, commit=args.commit, device=args.device)
    return said | dict(top1=top1, baseline=baseline, seeds=seeds, date=trained)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="architecture.tag")
    parser.add_argument("--runs", nargs="+", type=Path, required=True)
    parser.add_argument("--baseline", nargs="+", type=Path, default=[])
    for key in ("recipe", "dataset", "split", "license", "commit", "device", "limits"):
        parser.add_argument(f"--{key}", required=True)
    parser.add_argument("--weights", type=Path, default=Path(__file__).parents[1] / "weights")
    args = parser.parse_args()

    facts = facts_of(args)
    first = args.runs[0]
    model = load_model(first / "hub")
    config = json.loads((first / "hub" / "config.json").read_text())
    folder = save_folder(
        model,
        args.weights / args.name,
        resolve_data_config({}, model=model),
        label_names=config.get("label_names", ()),
        model_args=config.get("model_args"),
        summary=first / "summary.csv",
        card=facts | dict(command=args.recipe, recipe=settings_of(first), limits=args.limits),
    )
    files = {path.name: {"sha256": sha256_of(path), "size": path.stat().st_size} for path in sorted(folder.iterdir())}
    architecture, _, tag = args.name.partition(".")
    row = dict(name=args.name, architecture=architecture, tag=tag, files=files, recipe=args.recipe) | facts
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
