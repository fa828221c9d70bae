"""Run timm's own tests/test_models.py on twins: `python tests/zoo/timm_tests.py --output benchmarks/timm_tests.csv`.

The tests are fetched from PyPI at run time (the sdist of the installed timm ships them) and run unedited, on the
smallest model of each of timm's model modules, three times:

    twin      every call as it is
    exchange  calls in training mode get a permutation; only the tests that make such a call
    plain     timm's own models; only what failed before, to see what timm fails too

Every test's outcome is appended to a log, so a run that was stopped goes on where it was. Tests that download weights
are left out.
"""

import argparse
import collections
import csv
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import timm
import torch

NEEDS_THE_HUB = "not pretrained and not test_model_inference"


def fetch_tests(cache: Path) -> Path:
    """Folder with the tests/ and pyproject.toml of the installed timm's sdist."""
    root = cache / f"timm-{timm.__version__}"
    if not root.exists():
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "timm"]
        subprocess.run([*download, "-d", str(cache), f"timm=={timm.__version__}"], check=True)
        with tarfile.open(next(cache.glob("timm-*.tar.gz"))) as sdist:
            inside = (f"{root.name}/tests/", f"{root.name}/pyproject.toml")
            sdist.extractall(cache, [m for m in sdist.getmembers() if m.name.startswith(inside)], filter="data")
    return root


def smallest_models(cache: Path) -> list[str]:
    """The model with the fewest parameters of each of timm's model modules."""
    file = cache / f"models-{timm.__version__}.json"
    if not file.exists():
        chosen = {}
        for name in timm.list_models():
            module = timm.models.model_entrypoint(name).__module__
            if not module.startswith("timm."):
                continue
            with torch.device("meta"):
                size = sum(p.numel() for p in timm.create_model(name).parameters())
            chosen[module] = min(chosen.get(module, (size, name)), (size, name))
        file.write_text(json.dumps([name for _, name in chosen.values()]))
    return json.loads(file.read_text())


def run(root: Path, mode: str, models: list[str], only: list[str] | None, log: Path) -> dict[str, dict]:
    """Run the tests in one mode; what each did, by test id."""
    settings = json.dumps(dict(mode=mode, models=models, only=only, log=str(log)))
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    if only is None or only:
        subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "timm_twins", "-q", "--tb=no", "-k", NEEDS_THE_HUB]
            + ["-p", "no:cacheprovider", "-W", "ignore", "tests/test_models.py"],
            cwd=root,
            env={**os.environ, "TIMM_MOEX_ZOO": settings, "PYTHONPATH": paths},
            stdout=sys.stderr,
        )
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {record["test"]: record for record in records}


def write_table(output: Path, results: dict[str, dict[str, dict]]) -> None:
    """One line per test function and mode, and the reason of every failure."""
    fields = ["test", "mode", "passed", "failed", "skipped", "fails_on_timm_too", "exchanges", "reason"]
    with output.open("w", newline="") as file:
        table = csv.DictWriter(file, fields, lineterminator="\n")
        table.writeheader()
        for mode in ("twin", "exchange"):
            by_function = collections.defaultdict(list)
            for test, record in results[mode].items():
                by_function[test.partition("[")[0]].append(record)
            for function, records in sorted(by_function.items()):
                count = collections.Counter(record["outcome"] for record in records)
                failed = [record for record in records if record["outcome"] == "failed"]
                table.writerow(dict(
                    test=function, mode=mode, passed=count["passed"], failed=count["failed"], skipped=count["skipped"],
                    fails_on_timm_too=sum(results["plain"][r["test"]]["outcome"] == "failed" for r in failed),
                    exchanges=sum(record["exchanged"] for record in records),
                    reason=" | ".join(f"{r['test'].partition('[')[2].rstrip(']')}: {r['reason']}" for r in failed),
                ))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("output/timm_tests"), help="for the fetched tests and logs")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/timm_tests.csv"))
    parser.add_argument("--models", nargs="+", help="default: the smallest of each of timm's model modules")
    args = parser.parse_args()
    cache = args.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    root = fetch_tests(cache)
    models = args.models or smallest_models(cache)
    results = {"twin": run(root, "twin", models, None, cache / "twin.jsonl")}
    trained = [test for test, record in results["twin"].items() if record["training"]]
    results["exchange"] = run(root, "exchange", models, trained, cache / "exchange.jsonl")
    failed = [t for mode in results.values() for t, record in mode.items() if record["outcome"] == "failed"]
    results["plain"] = run(root, "plain", models, failed, cache / "plain.jsonl")
    write_table(args.output, results)
    for mode, records in results.items():
        print(mode, dict(collections.Counter(record["outcome"] for record in records.values())))


if __name__ == "__main__":
    main()
