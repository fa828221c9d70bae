"""`timm-moex verify` finds every defect of a folder, and reports none if there is none."""

import json
import re

import pytest
import torch
from hub_folders import TOP1, write_folder
from safetensors.torch import load_file, save_file
from tinydata import tiny_recipe, write_tiny
from weights_world import manifest_row

from timm_moex.cli import main
from timm_moex.hub.card import model_card
from timm_moex.hub.verify import find_released, verify_folder
from timm_moex.training.loop import train


@pytest.fixture
def folder(tmp_path):
    folder = write_folder(tmp_path / "test_resnet.v1")
    (tmp_path / "manifest.json").write_text(json.dumps({"checkpoints": [manifest_row(folder)]}))
    return folder


def problems_of(folder):
    return verify_folder(folder, find_released(folder))


def test_a_good_folder_has_no_problems(folder, capsys):
    assert problems_of(folder) == []
    assert main(["verify", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: OK\n"


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    try:
        save_file(weights, folder / "model.safetensors")
    except KeyError as error:
        pytest.skip(f"this version of safetensors has no {error}")


def replace(folder, name, old, new):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))


def as_type(dtype):
    """Replace a weight with a different type of tensor."""
    return lambda f: change_weights(f, lambda w: w.update({"fc.weight": w["fc.weight"].to(dtype)}))


def change_cfg(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    change_config(folder, pretrained_cfg=config["pretrained_cfg"] | changes)


def negative(weights):
    name = next(name for name in weights if name.endswith("running_var"))
    weights[name] = -weights[name]


FLOATS = "not torch.float32 or torch.float16 or torch.bfloat16 or torch.float64"
TYPES = {
    str(dtype): (as_type(dtype), f"fc.weight has dtype {dtype}, {FLOATS}")
    for dtype in (torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn)
}
WRONG = TYPES | {
    "counter": (
        lambda f: change_weights(f, lambda w: w.update({k: v.float() for k, v in w.items() if "num_batches" in k})),
        "num_batches_tracked has dtype torch.float32, not torch.int64",
    ),
    "variance": (lambda f: change_weights(f, negative), "running_var is negative"),
    "names": (lambda f: change_config(f, label_names=["a", "b", "c"]), "label_names is .'a', 'b', 'c'., not 10 names"),
    "mean": (lambda f: change_cfg(f, mean=[0.5, 0.5]), "mean has 2 values for 3 channels"),
    "std": (lambda f: change_cfg(f, std=[0.5, 0.5]), "std has 2 values for 3 channels"),
    "crop": (lambda f: change_cfg(f, crop_pct=50), "crop_pct is 50, not a number above 0 and at most 2"),
    "two_counts": (lambda f: change_cfg(f, num_classes=2), "num_classes is 10, but 2 in pretrained_cfg"),
    "architecture": (lambda f: change_config(f, architecture="test_resnett"), "did you mean 'test_resnet'"),
    "twin": (lambda f: change_config(f, architecture="moex_test_resnet"), "config.json names a twin"),
    "moex_args": (lambda f: change_config(f, model_args={"moex_prob": 1.0}), "names a twin or MoEx settings"),
    "odd_args": (lambda f: change_config(f, model_args={"width": 3}), "timm cannot build the model: .*width"),
    "no_json": (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
    "foreign": (lambda f: (f / "config.json").write_text("{}"), "config.json: architecture is None, not a str"),
    "classes": (lambda f: change_config(f, num_classes=7), "num_classes is 7, but 10 in pretrained_cfg"),
    "missing": (
        lambda f: change_weights(f, lambda w: w.pop("fc.bias")),
        r'model.safetensors: .*Missing key\(s\) in state_dict: "fc.bias"',
    ),
    "extra": (
        lambda f: change_weights(f, lambda w: w.update(x=w["fc.bias"].clone())),
        r'Unexpected key\(s\) in state_dict: "x"',
    ),
    "changed": (
        lambda f: change_weights(f, lambda w: w["fc.bias"].add_(1)),
        "has .* sha256 .*, but the manifest states",
    ),
    "cut": (lambda f: (f / "model.safetensors").write_bytes(b"1234567890"), "truncated or corrupt"),
    "no_front": (lambda f: (f / "README.md").write_text("hello"), "README.md: no front matter"),
    "library": (lambda f: replace(f, "README.md", "_name: timm", "_name: x"), "library_name is 'x', not 'timm'"),
    "number": (lambda f: replace(f, "README.md", "value: 81.5", "value: 99"), "model-index states .99., .* 81.5"),
    "license": (lambda f: replace(f, "README.md", "license: mit", "license: gpl"), "license is 'gpl', not 'mit'"),
    "untagged": (lambda f: replace(f, "README.md", "- moex\n", ""), "the tag moex is missing"),
    "unlisted": (lambda f: (f / "LICENSE").write_text(""), "LICENSE is not in the manifest"),
}


@pytest.mark.parametrize("case", WRONG)
def test_each_thing_that_can_be_wrong_is_found(case, folder, capsys):
    change, message = WRONG[case]
    change(folder)
    problems = problems_of(folder)
    assert any(re.search(message, problem) for problem in problems), problems
    assert main(["verify", str(folder)]) == 1
    assert problems[0] in capsys.readouterr().out


def test_a_missing_folder_gives_a_clear_error(tmp_path):
    assert verify_folder(tmp_path / "nothing") == [f"{tmp_path / 'nothing'} is not a folder"]


def test_stated_top1_is_measured_again(tmp_path, capsys):
    data = write_tiny(tmp_path / "data")
    run = train(tiny_recipe(data, epochs=1), tmp_path / "run", in_memory=True, log=lambda line: None, progress=False)
    folder = (run.folder / "hub").rename(tmp_path / "test_resnet.v1")
    top1 = run.metrics["top1"]
    words = ["verify", str(folder), "--dataset", "torch/fashion_mnist", "--data-dir", str(data)]
    for stated, code in ((top1, 0), (top1 + 5, 1)):
        config = json.loads((folder / "config.json").read_text())
        facts = dict(license="mit", top1=TOP1 | {"value": stated})
        (folder / "README.md").write_text(str(model_card(config, facts)))
        row = manifest_row(folder, **facts)
        (tmp_path / "manifest.json").write_text(json.dumps({"checkpoints": [row]}))
        assert main(words) == code
        out = capsys.readouterr().out
        assert f"top-1 {top1:.2f}, in the manifest {stated:.2f}" in out
