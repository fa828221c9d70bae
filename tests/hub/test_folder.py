"""Folders: plain timm loads them, and config, card and files say what they should."""

import json
import subprocess
import sys

import pytest
import timm
import torch
import yaml
from timm.data import resolve_data_config

from timm_moex import find_moex
from timm_moex.hub import load_twin, save_folder

CONFIG = dict(
    input_size=(1, 28, 28), mean=(0.286,), std=(0.353,), interpolation="bicubic", crop_pct=1.0, crop_mode="center"
)
LABELS = ["T-shirt/top", *"abcdefghi"]


def logits(model):
    torch.manual_seed(1)
    with torch.inference_mode():
        return model.eval()(torch.randn(4, 1, 28, 28))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A twin of a stock architecture with trained-looking statistics, and its folder."""
    torch.manual_seed(0)
    settings = dict(moex_prob=0.5, moex_norm="in", drop_rate=0.1)
    model = timm.create_model("moex_resnet10t", num_classes=10, in_chans=1, **settings)
    with torch.no_grad():
        model.train()(torch.rand(8, 1, 28, 28), swap_index=None)
    summary = tmp_path_factory.mktemp("run") / "summary.csv"
    summary.write_text("epoch,eval_top1\n0,80.0\n")
    card = {"results": "top-1 80.00", "recipe": {"model": "moex_resnet10t", "lr": 0.1}}
    said = dict(label_names=LABELS, model_args={"moex_prob": 0.5}, summary=summary, card=card)
    folder = save_folder(model, summary.parent / "hub", CONFIG, **said)
    return model, folder


def test_plain_timm_loads_a_stock_architecture_without_this_package(saved, tmp_path):
    model, folder = saved
    out = tmp_path / "logits.pt"
    code = f"""
import sys, timm, torch
torch.set_num_threads({torch.get_num_threads()})
model = timm.create_model("local-dir:{folder}", pretrained=True).eval()
torch.manual_seed(1)
with torch.inference_mode():
    torch.save(model(torch.randn(4, 1, 28, 28)), {str(out)!r})
cfg = timm.data.resolve_data_config({{}}, model=model)
assert "timm_moex" not in sys.modules and type(model).__name__ == "ResNet" and model.num_classes == 10
assert tuple(cfg["input_size"]) == (1, 28, 28) and tuple(cfg["mean"]) == (0.286,), cfg
assert cfg["crop_pct"] == 1.0 and cfg["interpolation"] == "bicubic"
assert model.pretrained_cfg["label_names"][0] == "T-shirt/top"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert torch.equal(torch.load(out, weights_only=True), logits(model))


def test_config_has_the_stock_name_and_no_moex_keys(saved):
    model, folder = saved
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "resnet10t" and config["num_classes"] == 10
    assert not any("moex" in str(key) for key in [*config, *config["pretrained_cfg"], *config.get("model_args", {})])
    assert "drop_rate" not in config.get("model_args", {})
    assert not {"url", "hf_hub_id", "file", "tag"} & {k for k, v in config["pretrained_cfg"].items() if v}
    assert resolve_data_config({}, model=model)["input_size"] != (1, 28, 28)  # saving did not touch the model
    files = ["README.md", "config.json", "model.safetensors", "recipe.yaml", "summary.csv"]
    assert sorted(path.name for path in folder.iterdir()) == files


def test_twin_loads_the_same_file(saved):
    model, folder = saved
    expected = logits(model)
    overlay = dict(file=str(folder / "model.safetensors"), num_classes=10, input_size=(1, 28, 28))
    twin = timm.create_model("moex_resnet10t", pretrained=True, pretrained_cfg_overlay=overlay, moex_prob=0.25)
    assert torch.equal(logits(twin), expected) and find_moex(twin).prob == 0.25
    twin = load_twin(folder, norm="in", prob=0.3)
    assert torch.equal(logits(twin), expected) and find_moex(twin).prob == 0.3
    assert not torch.equal(twin(torch.rand(2, 1, 28, 28), swap_index=torch.tensor([1, 0])), logits(model)[:2])


def test_readme_is_a_card_with_the_recipe(saved):
    text = (saved[1] / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "timm"
    assert "top-1 80.00" in body and "lr: 0.1" in body and 'create_model("local-dir:' in body


def test_arguments_that_change_the_architecture_survive(tmp_path):
    model = timm.create_model("resnet20_cifar", num_classes=10, in_chans=1, global_pool="max")
    folder = save_folder(model, tmp_path / "hub", CONFIG, model_args={"global_pool": "max"})
    assert torch.equal(logits(timm.create_model(f"local-dir:{folder}", pretrained=True)), logits(model))


def test_channels_last_compiled_and_shared_names_save_the_same_weights(tmp_path):
    model = timm.create_model("resnet20_cifar", num_classes=10, in_chans=1).to(memory_format=torch.channels_last)
    folder = save_folder(torch.compile(model, backend="eager"), tmp_path / "hub", CONFIG)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())
    assert model.conv1.weight.shape == (16, 1, 3, 3) and next(model.layer2.parameters()).is_contiguous(
        memory_format=torch.channels_last
    )


def test_half_precision_halves_the_parameters_and_leaves_the_running_moments(tmp_path):
    model = timm.create_model("resnet20_cifar", num_classes=10, in_chans=1).eval()
    model.bn1.running_var.fill_(1e6)  # more than float16 holds
    model.bn1.running_mean.fill_(1 / 3)
    whole = save_folder(model, tmp_path / "whole", CONFIG)
    half = save_folder(model, tmp_path / "half", CONFIG, dtype=torch.float16)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (half, whole)]
    assert sizes[0] < 0.55 * sizes[1]
    loaded = timm.create_model(f"local-dir:{half}", pretrained=True).state_dict()
    for key, value in model.state_dict().items():
        assert loaded[key].dtype == value.dtype
        stored = value.half().to(value.dtype) if key in dict(model.named_parameters()) else value
        assert torch.equal(loaded[key], stored), key
    assert model.conv1.weight.dtype == torch.float32
    model.fc.weight.data[0, 0] = 1e6
    with pytest.raises(ValueError, match="dtype=torch.float16: fc.weight is not finite"):
        save_folder(model, tmp_path / "half", CONFIG, dtype=torch.float16)


def test_only_a_saved_folder_is_replaced_and_only_as_a_whole(saved, tmp_path, monkeypatch):
    model, _ = saved
    folder = save_folder(model, tmp_path / "hub", CONFIG)
    mark = (folder / "config.json").read_text() + " "
    (folder / "config.json").write_text(mark)
    monkeypatch.setattr("timm_moex.hub.folder.save_for_hf", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_folder(model, folder, CONFIG)
    assert (folder / "config.json").read_text() == mark and [path.name for path in tmp_path.iterdir()] == ["hub"]
    monkeypatch.undo()
    save_folder(model, folder, CONFIG)
    assert (folder / "config.json").read_text() != mark and [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_labels_must_fit_the_model(saved, tmp_path):
    with pytest.raises(ValueError, match="label_names: 3 names for a model with num_classes=10"):
        save_folder(saved[0], tmp_path / "hub", CONFIG, label_names=list("abc"))


FOREIGN = {
    "a thesis next to an unknown config": (("config.json", "{}"), ("thesis.tex", "years of work")),
    "another library's config": (("config.json", '{"model_type": "bert"}'),),
    "only a readme": (("README.md", "# mine"),),
    "a torn config": (("config.json", '{"architecture"'),),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_folder_with_unexpected_files_is_not_replaced(case, saved, tmp_path):
    for name, text in FOREIGN[case]:
        (tmp_path / name).write_text(text)
    with pytest.raises(FileExistsError, match=f"is not replaced because it contains .*{FOREIGN[case][-1][0]}"):
        save_folder(saved[0], tmp_path, CONFIG)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict(FOREIGN[case])


@pytest.mark.parametrize("name", [".git", "thesis.tex", "LICENSE"])
def test_a_saved_folder_with_an_added_file_is_not_replaced(name, saved, tmp_path):
    folder = save_folder(saved[0], tmp_path / "hub", CONFIG)
    if name == "thesis.tex":
        (folder / name).write_text("years of work")
    else:
        (folder / name).mkdir()
    with pytest.raises(FileExistsError, match=f"because it contains {name}, which"):
        save_folder(saved[0], folder, CONFIG)
    assert (folder / name).exists()


def test_weights_that_are_not_finite_are_refused_by_name(saved, tmp_path):
    model = timm.create_model("test_resnet", num_classes=10)
    model.fc.bias.data[3] = torch.nan
    with pytest.raises(ValueError, match="fc.bias contains values that are not finite"):
        save_folder(model, tmp_path / "hub", CONFIG)
    assert not (tmp_path / "hub").exists()


def test_one_channel_is_written_where_transformers_looks(saved):
    config = json.loads((saved[1] / "config.json").read_text())
    assert config["model_args"]["in_chans"] == 1


@pytest.mark.parametrize("settings", [{}, {"moex_prob": 0.5, "moex_layer": ["stem", "stage2"]}])
def test_folder_that_timm_itself_writes_of_a_twin_loads_without_this_package(settings, tmp_path):
    twin = timm.create_model("moex_test_resnet", num_classes=10, **settings).eval()
    timm.models.save_for_hf(twin, str(tmp_path / "timms"), safe_serialization=True)
    images = torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)
    code = f"""
import json, sys, timm, torch
model = timm.create_model("local-dir:{tmp_path / "timms"}", pretrained=True).eval()
images = torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)
assert not any(name.startswith("timm_moex") for name in sys.modules)
print(json.dumps(model(images).tolist()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), twin(images))  # it may take other threads
    assert find_moex(twin).prob == settings.get("moex_prob", 1.0)


def test_config_states_the_number_of_classes_once(tmp_path):
    model = timm.create_model("test_resnet", num_classes=3)
    folder = save_folder(model, tmp_path / "hub", resolve_data_config({}, model=model))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["num_classes"] == 3 and "num_classes" not in config["model_args"]  # transformers passes both
