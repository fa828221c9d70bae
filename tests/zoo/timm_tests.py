"""Run timm's own tests/test_models.py on twins: `python tests/zoo/timm_tests.py`.

The tests are fetched from PyPI at run time (the sdist of the installed timm ships them) and run unedited, on the
smallest model of each of timm's model modules, three times:

    twin      every call as it is
    exchange  calls in training mode get a permutation; only the tests that make such a call
    plain     timm's own models; only what failed before, to see what timm fails too

Every test's outcome is appended to a log, so a stopped run continues; `--select` (pytest's `-k`) runs
a part. Tests that download weights are left out.
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

OFFLINE = "not pretrained and not test_model_inference"
WHY = {  # part of an error's message → what it means on a twin
    "NotSupportedError": "scripted outside timm's scriptable config: a twin's hooks cannot be scripted",
    "TorchScript cannot script hooks": "scripted outside timm's scriptable config: a twin's hooks cannot be scripted",
    "exchanged 0 times": "the test prunes the module of the site away; the exchange raises, as it must",
}


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


def run(root: Path, mode: str, models: list[str], only: list[str] | None, select: str) -> dict[str, dict]:
    """Run the tests in one mode; what each did, by test id."""
    log = root.parent / f"{mode}.jsonl"
    settings = json.dumps(dict(mode=mode, models=models, only=only, log=str(log)))
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    if only is None or only:
        subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "timm_twins", "-q", "--tb=no", "-k", f"{OFFLINE} and ({select})"]
            + ["-p", "no:cacheprovider", "-W", "ignore", "tests/test_models.py"],
            cwd=root,
            env={**os.environ, "TIMM_MOEX_ZOO": settings, "PYTHONPATH": paths},
            stdout=sys.stderr,
        )
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {record["test"]: record for record in records}


def why(reason: str) -> str:
    return next((meaning for part, meaning in WHY.items() if part in reason), reason)


def write_table(output: Path, results: dict[str, dict[str, dict]], collected: list[str]) -> None:
    """One line per test function and mode, with the reason of every failure."""
    fields = ["test", "mode", "passed", "failed", "skipped", "not_run", "fails_on_timm_too", "exchanges", "failures"]
    names = collections.defaultdict(list)
    for test in collected:
        names[test.partition("[")[0]].append(test)
    with output.open("w", newline="") as file:
        table = csv.DictWriter(file, fields, lineterminator="\n")
        table.writeheader()
        for mode in ("twin", "exchange"):
            for function, tests in sorted(names.items()):
                records = [results[mode][test] for test in tests if test in results[mode]]
                if records or mode == "twin":
                    table.writerow(summary(function, mode, tests, records, results["plain"]))


def summary(function: str, mode: str, tests: list[str], records: list[dict], plain: dict[str, dict]) -> dict:
    count = collections.Counter(record["outcome"] for record in records)
    failed = collections.defaultdict(list)
    for record in records:
        if record["outcome"] == "failed":
            failed[why(record["reason"])].append(record["test"])
    everyone = [test for group in failed.values() for test in group]
    return dict(
        test=function,
        mode=mode,
        passed=count["passed"],
        failed=count["failed"],
        skipped=count["skipped"],
        not_run=len(tests) - len(records) if mode == "twin" else 0,
        fails_on_timm_too=sum(plain[test]["outcome"] == "failed" for test in everyone),
        exchanges=sum(record["exchanged"] for record in records),
        failures="; ".join(f"{reason} ({len(group)}: {', '.join(group)})" for reason, group in failed.items()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("output/timm_tests"), help="for the fetched tests and logs")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/timm_tests.csv"))
    parser.add_argument("--models", nargs="+", help="default: the smallest of each of timm's model modules")
    parser.add_argument("--select", default="test", help="pytest -k expression")
    args = parser.parse_args()
    cache = args.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    root = fetch_tests(cache)
    models = args.models or smallest_models(cache)
    results = {"twin": run(root, "twin", models, None, args.select)}
    trained = [test for test, record in results["twin"].items() if record["training"]]
    results["exchange"] = run(root, "exchange", models, trained, args.select)
    failed = [t for mode in results.values() for t, record in mode.items() if record["outcome"] == "failed"]
    results["plain"] = run(root, "plain", models, failed, "test")
    write_table(args.output, results, json.loads((cache / "twin.collected.json").read_text()))
    for mode, records in results.items():
        print(mode, dict(collections.Counter(record["outcome"] for record in records.values())))


if __name__ == "__main__":
    main()
