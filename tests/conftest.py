"""Shared fixtures. Test modules import `timm_moex` for its registrations."""

import pytest
import torch

# The tensors here are small: a second thread costs more than it brings, most of all where tests share the machine.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
