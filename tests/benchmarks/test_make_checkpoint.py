"""A checkpoint is made from a study's median run, never the best one; the shipped ones are as accurate as stated."""

import argparse
import gzip
import json
import os
from pathlib import Path

import pytest

from benchmarks.study import make_checkpoint
from timm_moex.cli import main
from timm_moex.hub.manifest import released_weights, weights_dir

PICTURES = {  # dataset → the variable with its folder, and how the checkpoint was evaluated
    "PACS": ("TIMM_MOEX_PACS", ["--group-folders", "--val-fraction", "0.1"]),
    "CIFAR-10": ("TIMM_MOEX_CIFAR10", ["--split", "test"]),
}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
ALL_TEST_IMAGES = "test, all 10,000 images"


@pytest.mark.parametrize("values, first", [([3.0, 1.0, 2.0], 2), ([4.0, 1.0], 1), ([5.0], 0), ([1, 9, 5, 7, 3], 2)])
def test_weights_are_those_of_the_median_run(values, first):
    runs = [Path(str(seed)) for seed in range(len(values))]
    ordered = make_checkpoint.median_first(runs, values)
    assert ordered[0] == runs[first] and sorted(ordered) == runs


def test_a_run_is_found_by_its_curve(monkeypatch):
    rows = [{"curve": "study/a-1", "test_top1": "81"}, {"curve": "study/a-10", "test_top1": "82"}]
    monkeypatch.setattr(make_checkpoint, "read_rows", lambda table: rows)
    assert make_checkpoint.top1_of(Path("runs/a-1"), "study", "test_top1") == 81
    with pytest.raises(ValueError):
        make_checkpoint.top1_of(Path("runs/a"), "study", "test_top1")


@pytest.mark.parametrize("test, top1", [({}, 70.0), ({"test": {"top1": 60.0}}, 60.0)])
def test_a_run_of_compare_counts_by_its_test_images_if_it_has_any(tmp_path, test, top1):
    (tmp_path / "summary.csv").write_text("epoch,eval_top1\n0,70.0\n")
    (tmp_path / "result.json").write_text(json.dumps({"metrics": {"top1": 70.0}} | test))
    assert make_checkpoint.top1_of(tmp_path, None, "test_top1") == top1


def test_with_a_table_only_the_median_runs_folder_is_needed(tmp_path, monkeypatch):
    line = dict(commit="abc1234", processor="CPU", threads="1")
    rows = [line | {"curve": f"study/run-{seed}", "test_top1": f"8{seed}", "seed": f"{seed}"} for seed in (1, 2, 3)]
    monkeypatch.setattr(make_checkpoint, "read_rows", lambda table: rows)
    (tmp_path / "run-2").mkdir()
    (tmp_path / "run-2" / "summary.csv").write_text("epoch\n0\n")
    words = dict.fromkeys(("dataset", "split", "license", "commit", "device", "value"))
    args = argparse.Namespace(**words, table="study", column="test_top1", baseline=[])
    facts = make_checkpoint.facts_of(args, [tmp_path / f"run-{seed}" for seed in (2, 1, 3)])
    assert facts["seeds"] == [2, 1, 3] and facts["top1"]["value"] == 82 and facts["commit"] == "abc1234"


def test_float16_needs_the_top1_of_the_written_file(monkeypatch, capsys):
    words = ["x.y", "--runs", "run", "--half"]
    words += [word for key in ("recipe", "dataset", "split", "license", "limits") for word in (f"--{key}", "a")]
    monkeypatch.setattr("sys.argv", ["make_checkpoint", *words])
    with pytest.raises(SystemExit):
        make_checkpoint.main()
    assert "--half requires --value" in capsys.readouterr().err


@pytest.fixture(scope="module")
def fashion_mnist(tmp_path_factory):
    root = tmp_path_factory.mktemp("fashion")
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in DEBIAN.glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    return root


@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian package dataset-fashion-mnist is not installed")
@pytest.mark.parametrize("name", sorted(n for n, entry in released_weights().items() if entry.split == ALL_TEST_IMAGES))
def test_shipped_checkpoint_has_the_accuracy_it_states(name, fashion_mnist, capsys):
    folder = str(weights_dir() / name)
    code = main(["verify", folder, "--dataset", "torch/fashion_mnist", "--data-dir", str(fashion_mnist)])
    assert code == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(n for n, entry in released_weights().items() if entry.dataset in PICTURES))
def test_shipped_checkpoint_has_the_accuracy_it_states_on_pictures(name, capsys):
    entry = released_weights()[name]
    variable, options = PICTURES[entry.dataset]
    folder = os.environ.get(variable) or pytest.skip(f"{variable} is not set")
    assert main(["eval", str(weights_dir() / name), "--data-dir", folder, *options]) == 0
    assert f"top-1 {entry.top1['value']:.2f}" in capsys.readouterr().out
