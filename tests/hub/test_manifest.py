"""weights/: the manifest, the folders, timm's registry and the cards agree."""

import json
import re

import pytest
from hub_folders import write_folder
from safetensors import safe_open
from weights_world import manifest_row

from timm_moex.hub.card import model_card, parse_card
from timm_moex.hub.manifest import read_manifest, released_weights, weights_dir
from timm_moex.hub.verify import verify_all
from timm_moex.insertion.presets import PRESETS

MB = 2**20


def test_every_shipped_checkpoint_verifies():
    assert (weights_dir() / "manifest.json").is_file()
    assert {name: problems for name, problems in verify_all().items() if problems} == {}


def test_shipped_folders_are_small():
    sizes = {}
    for name in released_weights():
        sizes[name] = sum(path.stat().st_size for path in (weights_dir() / name).iterdir())
    assert all(size <= 8 * MB for size in sizes.values()) and sum(sizes.values()) <= 40 * MB, sizes


@pytest.mark.parametrize("name", sorted(released_weights()))
def test_cards_agree_with_the_manifest(name):
    entry = released_weights()[name]
    card = (weights_dir() / name / "README.md").read_text()
    [result] = parse_card(card).data.eval_results
    assert result.metric_value == entry.top1["value"]
    assert f"commit {entry.commit}" in card and f"Seeds: {', '.join(map(str, sorted(entry.seeds)))}\n" in card
    assert f"{entry.top1['mean']:.2f} ± {entry.top1['std']:.2f}" in card or len(entry.seeds) == 1


@pytest.mark.parametrize("name", sorted(released_weights()))
def test_a_card_says_whether_its_parameters_are_in_float16(name):
    folder = weights_dir() / name
    with safe_open(folder / "model.safetensors", "pt") as tensors:
        types = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}
    assert ("F16" in types) == ("saved in float16" in (folder / "README.md").read_text())


def test_who_may_read_the_config_may_read_the_weights(tmp_path):
    assert len({path.stat().st_mode for path in write_folder(tmp_path / "hub").iterdir()}) == 1


def write_manifest(tmp_path, **changes):
    folder = write_folder(tmp_path / "test_resnet.v1")
    row = {key: value for key, value in (manifest_row(folder) | changes).items() if value is not ...}
    (tmp_path / "manifest.json").write_text(json.dumps({"checkpoints": [row]}))
    return tmp_path / "manifest.json"


def test_a_manifest_reads_back(tmp_path):
    [entry] = read_manifest(write_manifest(tmp_path))
    assert (entry.name, entry.architecture, entry.tag) == ("test_resnet.v1", "test_resnet", "v1")


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(topp1=3), "'test_resnet.v1' has missing or unknown keys: topp1"),
        (dict(seeds=...), "has missing or unknown keys: seeds"),
        (dict(tag="v2"), "name='test_resnet.v1': expected 'test_resnet.v2'"),
        (dict(hub_id="ORG/NAME"), "hub_id='ORG/NAME', revision=None: expected both or neither"),
        (dict(top1={"value": 3}), "top1=.'value': 3., .*: expected value, mean, std"),
        (dict(seeds=[]), r"seeds=\[\]: expected .* at least one seed"),
    ],
)
def test_an_invalid_manifest_gives_a_clear_error(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_manifest(write_manifest(tmp_path, **changes))


def test_a_file_that_is_not_a_manifest_is_rejected(tmp_path):
    (tmp_path / "manifest.json").write_text("[")
    with pytest.raises(ValueError, match="is not a manifest"):
        read_manifest(tmp_path / "manifest.json")


CONFIG = dict(architecture="test_resnet", num_classes=10, pretrained_cfg=dict(input_size=(3, 32, 32)))
TOP1 = {"value": 81.5, "mean": 81.0, "std": 0.5}


def test_card_compares_with_the_baseline():
    facts = dict(top1=TOP1, seeds=[4, 5, 6], baseline={"mean": 80.2, "std": 0.4}, dataset="torch/fashion_mnist")
    card = str(model_card(CONFIG, facts | dict(split="test", license="mit", base_model="timm/x.y", recipe={"lr": 0.1})))
    data = parse_card(card).data
    assert data.datasets == ["zalando-datasets/fashion_mnist"] and data.base_model == "timm/x.y"
    assert (data.library_name, data.pipeline_tag) == ("timm", "image-classification")
    [result] = data.eval_results
    assert result.dataset_split == "test" and result.metric_value == 81.5
    assert "| with MoEx | 81.00 ± 0.50 |" in card and "| same recipe without MoEx | 80.20 ± 0.40 |" in card
    assert "These weights: top-1 81.50, from the last epoch of seed 4." in card and "lr: 0.1" in card


def test_card_names_the_preset_it_was_trained_with():
    facts = dict(top1=TOP1, baseline=TOP1, seeds=[4, 5], recipe={"model_kwargs": {"moex_preset": "mixstyle"}})
    card = model_card(CONFIG, facts).text
    assert "Trained with [MixStyle](https://arxiv.org/abs/2104.02008) by timm_moex." in card and "MoEx" not in card
    assert "| same recipe without MixStyle |" in card and "MixStyle does not always help" in card
    with pytest.raises(ValueError, match="preset='mixtyle': expected one of"):
        model_card(CONFIG, {"recipe": {"model_kwargs": {"moex_preset": "mixtyle"}}})


RECIPES = {
    "twin": ({"model": "moex_resnet18"}, True),
    "preset": ({"model": "resnet18", "model_kwargs": {"moex_preset": "padain"}}, True),
    "never": ({"model": "moex_resnet18", "model_kwargs": {"moex_prob": 0.0}}, False),
    "plain": ({"model": "resnet18"}, False),
    "unknown": (None, False),
}


@pytest.mark.parametrize("case", RECIPES)
@pytest.mark.parametrize("architecture, how", [("test_resnet", "."), ("resnet20_cifar", " after `import timm_moex`.")])
def test_card_says_what_is_true_of_the_training_and_of_loading(case, architecture, how):
    recipe, exchanged = RECIPES[case]
    card = model_card(CONFIG | {"architecture": architecture}, {"recipe": recipe}).text
    assert ("Trained with [" in card) == exchanged and f"timm can load this model{how}\n" in card


@pytest.mark.parametrize("exchanged", [True, False])
def test_card_continues_with_the_settings_of_the_training(exchanged):
    settings = {"moex_preset": "mixstyle", "moex_prob": 0.25 * exchanged, "moex_per_site": True, "drop_rate": 0.1}
    card = model_card(CONFIG, {"recipe": {"model": "moex_resnet18", "model_kwargs": settings}}, source="X").text
    further = ("To train these weights further, with MixStyle", 'load_twin("X", preset="mixstyle", per_site=True)')
    same = ("To continue training with", 'load_twin("X", preset="mixstyle", prob=0.25, per_site=True)')
    assert all(text in card for text in (same if exchanged else further))
    assert ("active only during training" in card) == ("does not always help" in card) == exchanged


@pytest.mark.parametrize("kwargs, given", [({"moex_prob": 0, "moex_lam": 0.5}, "prob=0.5, lam=0.5"), ({}, "prob=0.5")])
def test_card_of_a_plain_run_suggests_exchanging_in_half_of_the_batches(kwargs, given):
    recipe = {"model": "moex_resnet18" if kwargs else "resnet18", "model_kwargs": kwargs}
    assert f'load_twin("X", {given})' in model_card(CONFIG, {"recipe": recipe}, source="X").text


def test_card_tells_figures_of_runs_from_those_of_the_saved_weights():
    runs = dict(baseline={"mean": 82.3, "std": 0.0}, recipe={"model": "moex_resnet18"})
    card = model_card(CONFIG, runs | dict(top1=TOP1, seeds=[3])).text
    assert "| with MoEx | 81.00 |" in card and "| same recipe without MoEx | 82.30 |" in card
    assert "These weights: top-1 81.50, from the last epoch of seed 3." in card
    same = model_card(CONFIG, runs | dict(top1=TOP1 | {"mean": 81.5}, seeds=[3])).text
    assert "| with MoEx | 81.50 |" in same and "These weights:" not in same
    unknown = model_card(CONFIG, runs | dict(top1=TOP1)).text
    assert "| with MoEx | 81.00 |" in unknown and "These weights: top-1 81.50.\n" in unknown
    several = model_card(CONFIG, dict(top1=TOP1, seeds=[12, 3], recipe={"model": "resnet18"})).text
    assert "| this recipe | 81.00 ± 0.50 |" in several and "from the last epoch of seed 12." in several
    assert "- Seeds: 3, 12\n" in several


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_card_links_the_paper_of_every_preset(preset):
    assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", preset.url)
    card = model_card(CONFIG, {"recipe": {"model_kwargs": {"moex_preset": preset.name}}}).text
    assert f"Trained with [{preset.title}]({preset.url})" in card


def test_stock_architectures_are_tagged_for_transformers():
    assert "transformers" in model_card(CONFIG, {}).data.tags
    assert "transformers" not in model_card(CONFIG | {"architecture": "resnet20_cifar"}, {}).data.tags


def test_card_leaves_out_paths_of_one_machine():
    card = model_card(CONFIG, {"recipe": {"lr": 0.1, "data_dir": "/home/me/data", "output": "/home/me/out"}}).text
    assert "lr: 0.1" in card and "/home/me" not in card


def test_card_names_what_is_not_known():
    card = model_card(CONFIG, dict(top1=TOP1, seeds=[0], recipe={"model": "moex_resnet18"})).text
    assert "not run, so the effect of MoEx is unknown" in card and "±" not in card
    other = model_card(CONFIG, dict(top1={"value": 81.5}, seeds=[0], origin="Trained without an exchange.")).text
    assert "| these weights | 81.50 |" in other and "without MoEx |" not in other
    unknown = model_card(CONFIG, dict(top1=TOP1, seeds=[0])).text
    assert "| these weights | 81.50 |" in unknown and "without MoEx |" not in unknown
    bare = model_card(CONFIG, {})
    assert bare.data.eval_results is None and "MoEx does not always help" not in bare.text


@pytest.mark.parametrize("architecture, needs_import", [("test_resnet", False), ("resnet20_cifar", True)])
def test_code_of_the_card_runs(architecture, needs_import, tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "path" / "to" / "this" / "folder", architecture)
    card = (folder / "README.md").read_text()
    blocks = [block.partition("```")[0] for block in card.split("```python\n")[1:]]
    assert len(blocks) == 2 and ("import timm_moex" in blocks[0]) == needs_import
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        names = {}
        exec(block, names)
        assert names["model"].num_classes == 10


def test_card_refuses_a_key_it_does_not_know():
    with pytest.raises(ValueError, match="unknown key 'licence'.*did you mean 'license'"):
        model_card(CONFIG, {"licence": "mit"})
