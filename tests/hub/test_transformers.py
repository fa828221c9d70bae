"""Folders load in transformers, which builds timm's architectures through its own wrapper."""

import pytest
import timm
import torch
from timm.data import resolve_data_config

from timm_moex.hub import save_folder
from timm_moex.hub.manifest import weights_dir

GREY = {"input_size": (1, 64, 64), "mean": (0.5,), "std": (0.5,)}
PACKAGED = ["tf_efficientnet_lite0.mixstyle_pacs", "test_resnet.moex_cifar10"]


def one_channel(tmp_path):
    model = timm.create_model("test_resnet", in_chans=1, num_classes=3)
    torch.nn.init.normal_(model.get_classifier().weight)
    return save_folder(model, tmp_path / "hub", resolve_data_config(GREY, model=model))


@pytest.mark.parametrize("name", [None, *PACKAGED], ids=["grey", *PACKAGED])
def test_transformers_gives_timms_logits(name, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder, channels = (weights_dir() / name, 3) if name else (one_channel(tmp_path), 1)
    ours = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    theirs = transformers.AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    size = resolve_data_config({}, model=ours)["input_size"]
    assert size[0] == channels
    images = torch.linspace(-1, 1, 2 * channels * size[1] * size[2]).reshape(2, *size)
    with torch.inference_mode():
        logits = ours(images)
        assert logits.abs().max() > 0.1 and torch.equal(theirs(images).logits, logits)
