"""The figures in docs/speed.md match the CSV files, and the arithmetic of the benchmarks is correct."""

import sys
from pathlib import Path

import pytest
import torch

from timm_moex import moment_exchange

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks import _results  # noqa: E402
from benchmarks._markdown import read_block  # noqa: E402
from benchmarks.speed import _measure, op, tables  # noqa: E402


@pytest.mark.parametrize("block", tables.BLOCKS)
def test_the_page_shows_the_figures_of_the_csv_files(block):
    shown = read_block(tables.PAGE, block)
    assert shown == tables.BLOCKS[block](), "run: python -m benchmarks.speed.tables --write"


def test_ratios_are_to_the_first_contender_of_the_same_round(monkeypatch):
    seconds = {"unit": iter([0, 0, 1.0, 2.0, 4.0, 1.0, 1.0]), "twice": iter([0, 0, 2.0, 4.0, 8.0, 2.0, 2.0])}
    monkeypatch.setattr(_measure, "_seconds", lambda function, device, clock: function())
    rows = _measure.measure({name: lambda n=name: next(seconds[n]) for name in seconds}, torch.device("cpu"), 0)
    assert [row["ratio_20"] + row["ratio_50"] + row["ratio_80"] for row in rows] == ["111", "222"]


@pytest.mark.parametrize("wrong", [lambda x, i: x[i], lambda x, i: moment_exchange(x, i, norm="in")])
def test_a_wrong_contender_is_not_timed(wrong):
    x, grad, swap_index = op.tensors((6, 5, 4, 3), "float32", "NCHW", torch.device("cpu"))
    with pytest.raises(AssertionError, match="error"):
        op.assert_right(wrong, "pono", x, grad, swap_index)
    op.assert_right(op.contenders(torch.device("cpu"), "pono")["closed_form"], "pono", x, grad, swap_index)


def test_rows_of_another_device_are_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(_results, "environment", lambda device: {"device": device.type})
    for device, value in (("cuda", 1), ("cpu", 2), ("cpu", 3)):
        _results.write_rows("some", [{"value": value}], torch.device(device), tmp_path)
    assert _results.read_rows("some", tmp_path) == [{"value": "1", "device": "cuda"}, {"value": "3", "device": "cpu"}]
