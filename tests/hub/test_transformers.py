"""Folders in transformers, which builds timm's architectures through its own wrapper."""

import pytest
import timm
import torch
from timm.data import resolve_data_config

from timm_moex.hub.manifest import weights_dir


def test_folder_of_one_channel_gives_timms_logits():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder = weights_dir() / "regnetx_002.moex_fmnist10k"
    ours = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    theirs = transformers.AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    size = resolve_data_config({}, model=ours)["input_size"]
    assert size[0] == 1
    images = torch.linspace(-1, 1, 2 * size[1] * size[2]).reshape(2, *size)
    with torch.inference_mode():
        assert torch.equal(theirs(images).logits, ours(images))
