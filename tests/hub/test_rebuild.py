"""Before a folder appears, `save_folder` rebuilds the model from it and names the layer that differs, if any."""

import json

import numpy as np
import pytest
import timm
import torch
from hub_folders import CONFIG
from PIL import Image
from safetensors.torch import load_file
from timm.layers import freeze_batch_norm_2d
from torch import nn
from torchvision.transforms import InterpolationMode

from timm_moex.hub import save_folder
from timm_moex.hub.verify import verify_folder


def wide(model):
    model.fc = nn.Linear(model.num_features, 5)


def other_stem(model):
    model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 5, stride=2, padding=2, bias=False)


def other_channels(model):
    model.conv1 = nn.Conv2d(4, model.conv1.out_channels, 7, stride=2, padding=3, bias=False)


CHANGES = {
    "classifier": (wide, r"size mismatch for fc.weight: .*\[5, 512\].*\[10, 512\]"),
    "stem": (other_stem, r"size mismatch for conv1.weight: .*\[64, 3, 5, 5\].*\[64, 3, 7, 7\]"),
    "channels": (other_channels, r"model does not accept images of input_size \(3, 32, 32\)"),
    "no_pool": (lambda m: setattr(m, "maxpool", nn.Identity()), r"layer 'maxpool' is Identity\(\), but .* MaxPool2d"),
    "activation": (lambda m: setattr(m, "act1", nn.SiLU()), r"layer 'act1' is SiLU\(\), but .* ReLU"),
    "added": (
        lambda m: setattr(m, "extra", nn.Linear(2, 2)),
        r'Unexpected key\(s\) in state_dict: "extra.bias", "extra.weight"',
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_changed_layer_is_named_before_anything_is_replaced(case, tmp_path):
    change, words = CHANGES[case]
    model = timm.create_model("resnet18", num_classes=10)
    folder = save_folder(model, tmp_path / "hub", CONFIG)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    change(model)
    with pytest.raises(ValueError, match=words) as caught:
        save_folder(model, folder, CONFIG)
    assert "images of input_size" in str(caught.value) or "reset_classifier" in str(caught.value)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_what_the_message_advises_works(tmp_path):
    model = timm.create_model("resnet18", num_classes=10)
    model.reset_classifier(5)
    assert verify_folder(save_folder(model, tmp_path / "head", CONFIG, card={"license": "mit"})) == []
    model.act1 = nn.SiLU()
    with pytest.raises(ValueError, match="act1"):
        save_folder(model, tmp_path / "act", CONFIG)
    other = timm.create_model("resnet18", num_classes=10, act_layer="silu")
    folder = save_folder(other, tmp_path / "act", CONFIG)
    assert json.loads((folder / "config.json").read_text())["model_args"]["act_layer"] == "silu"


def test_model_args_reach_timms_save(tmp_path):
    model = timm.create_model("resnet18", num_classes=10, act_layer=nn.SiLU)
    with pytest.raises(ValueError, match="Model argument 'act_layer' is not serializable; provide a model_args"):
        save_folder(model, tmp_path / "hub", CONFIG)
    folder = save_folder(model, tmp_path / "hub", CONFIG, model_args={"act_layer": "silu", "moex_prob": 0.5})
    arguments = json.loads((folder / "config.json").read_text())["model_args"]
    assert arguments["act_layer"] == "silu" and "moex_prob" not in arguments
    with pytest.raises(ValueError, match="model_args: the model cannot be rebuilt: .*'widht'"):
        save_folder(model, tmp_path / "hub", CONFIG, model_args={"act_layer": "silu", "widht": 3})


def test_frozen_batch_norms_are_saved_and_sound(tmp_path):
    model = freeze_batch_norm_2d(timm.create_model("resnet18", num_classes=10))
    folder = save_folder(model, tmp_path / "hub", CONFIG)
    assert not any(name.endswith("num_batches_tracked") for name in load_file(folder / "model.safetensors"))
    assert verify_folder(folder) == []


def test_saving_does_not_change_the_model_or_the_random_state(tmp_path):
    model = timm.create_model("moex_test_resnet", num_classes=10).half().train()
    state, before = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    save_folder(model, tmp_path / "hub", CONFIG)
    assert torch.equal(torch.get_rng_state(), state) and model.training
    after = model.state_dict()
    assert all(torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items())


LABELS = [*"jihgfedcba"]
FORMS = {
    "list": LABELS,
    "tuple": tuple(LABELS),
    "array": np.array(LABELS),
    "index_to_name": dict(reversed(list(enumerate(LABELS)))),
    "name_to_index": {name: index for index, name in sorted(zip(LABELS, range(10)))},
    "numpy_index": {name: np.int64(index) for index, name in enumerate(LABELS)},
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_in_any_form_are_stored_in_the_order_of_the_classes(form, tmp_path):
    model = timm.create_model("test_resnet", num_classes=10)
    folder = save_folder(model, tmp_path / "hub", CONFIG, label_names=FORMS[form])
    assert json.loads((folder / "config.json").read_text())["label_names"] == LABELS


TENSORS = {
    "numpy": dict(mean=np.array([0.5, 0.4, 0.3], np.float32), std=np.float64([0.5] * 3), crop_pct=np.float32(0.5)),
    "torch": dict(mean=torch.tensor([0.5, 0.25, 0.125]), std=(torch.tensor(0.5),) * 3),
    "size": dict(input_size=np.array([3, 32, 32])),
    "torchvision": dict(interpolation=InterpolationMode.BILINEAR),
    "pillow": dict(interpolation=Image.Resampling.BILINEAR),
}


@pytest.mark.parametrize("case", TENSORS)
def test_arrays_tensors_and_enums_are_written_as_plain_values(case, tmp_path):
    model = timm.create_model("test_resnet", num_classes=10)
    folder = save_folder(model, tmp_path / "hub", CONFIG | TENSORS[case])
    cfg = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    for key, value in TENSORS[case].items():
        if key == "interpolation":
            assert cfg[key] == "bilinear"
        else:
            assert cfg[key] == (float(value) if key == "crop_pct" else [pytest.approx(float(entry)) for entry in value])
