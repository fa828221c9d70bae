"""Settings missing in a recipe come from the machine and the data; given ones do not change."""

import pytest
import torch
from PIL import Image

from timm_moex.training.datasets import DataError
from timm_moex.training.recipe import Recipe, load_recipe
from timm_moex.training.start import find_device, resolve_defaults


@pytest.fixture
def pets(tmp_path):
    for name in ("cat", "dog", "hen"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / name / "0.png")
    return tmp_path


@pytest.mark.parametrize("gpu", [True, False])
def test_device_is_the_cpu_if_there_is_no_gpu(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    recipe, notes = resolve_defaults(Recipe("mine", {"model": "moex_resnet18", "num_classes": 3}))
    assert recipe.arguments().device == find_device(recipe) == ("cuda" if gpu else "cpu")
    assert notes == ([] if gpu else ["device: cpu, because no CUDA device was found"])
    given = {"device": "cuda", "num_classes": 3}
    assert resolve_defaults(Recipe("mine", given))[0].settings == given


def test_finetune_gets_the_classes_of_the_folder(pets):
    recipe, notes = resolve_defaults(load_recipe("finetune").override(data_dir=str(pets), device="cpu"))
    assert recipe.settings["num_classes"] == 3
    assert notes == ["num_classes: 3, the classes of the data (cat, dog, hen)"]


def test_a_model_without_pretrained_weights_gets_the_classes_of_the_folder(pets):
    plain = Recipe("mine", {"model": "moex_resnet18", "data_dir": str(pets), "device": "cpu"})
    assert resolve_defaults(plain)[0].settings["num_classes"] == 3


def test_a_given_number_of_classes_is_kept(pets):
    given = load_recipe("finetune").override(data_dir=str(pets), device="cpu", num_classes=5)
    assert resolve_defaults(given) == (given, [])


def test_missing_data_is_an_error_before_a_model_is_loaded():
    with pytest.raises(DataError, match="data_dir is not set"):
        resolve_defaults(load_recipe("finetune"))
