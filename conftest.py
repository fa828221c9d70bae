"""Fixtures for tests and doctests, and the modules in which pytest must not look for doctests."""

import importlib.util

import pytest
import torch

# A child process, a plug-in and an interpreter that tests start themselves: importing them here would run them.
collect_ignore = ["tests/support", "tests/zoo/timm_twins.py"]
if importlib.util.find_spec("triton") is None:  # PyTorch ships Triton only on Linux
    collect_ignore.append("timm_moex/exchange/_triton.py")

# The tensors here are small, and a second thread slows them down, especially if other jobs run.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
