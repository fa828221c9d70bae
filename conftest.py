"""Fixtures for tests and doctests, and the modules in which pytest must not look for doctests."""

import importlib.util

import pytest
import torch

# A child process, a plug-in and an interpreter that tests start themselves: importing them here would run them.
collect_ignore = ["tests/support", "tests/zoo/timm_twins.py"]
if importlib.util.find_spec("triton") is None:  # PyTorch brings Triton on Linux alone
    collect_ignore.append("timm_moex/exchange/_triton.py")

# The tensors here are small: a second thread costs more than it brings, most of all where tests share the machine.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
